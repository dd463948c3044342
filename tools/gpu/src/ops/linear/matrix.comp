#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "memory.glsl"
#include "weights.glsl"
#include "layer_norm.glsl"

// Dense layers on cooperative matrices: the rows of all samples are one matrix, whose rows lie one behind the other.
//
// A workgroup sums BM rows by BN channels, each subgroup WM by WN, over steps of STEP groups of 16 K. Rows of a step lie
// one 16-byte word further apart in workgroup memory, so that eight of them hit distinct banks; the next step is fetched
// while one is summed. OUT is the width of an element of the output.
//
// Sums become bytes in the invocation that holds them (`memory.glsl` says which). The columns of two matrices side by side
// are 32 channels, ordered so that an invocation holds eight neighbours of a row: it writes them as one word of 8 or 16
// bytes.
//
// A dispatch is up to four layers of as many rows, side by side; those that are not there have no channels.
//
// With NORM the tile holds whole rows, and LayerNorm of the 16-bit output follows in the same dispatch.

const uint ROW_SUBGROUPS = BN / WN;
const uint THREADS = 32 * (BM / WM) * ROW_SUBGROUPS;
layout(local_size_x = THREADS) in;

struct Job {
    Tensor x;
    Tensor residual;
    Tensor out_;
    // Rows of all samples there is room for.
    uint rows;
    // 16-byte words from one row of `x` to the next, and words from one row of the output and of the residual.
    uint x_row;
    uint out_row;
    uint residual_row;
    uint k;
    uint n;
    uint residual_shift;
    Dense dense;
#ifdef NORM
    Norm norm;
#endif
};

#ifdef NORM
const uint JOBS = 1;
#else
const uint JOBS = 4;
#endif
layout(set = 0, binding = 2) restrict readonly buffer Parameters { Job jobs[JOBS]; };
uint job;
#define p jobs[job]

const uint PITCH = STEP + 1;
const uint STAGE = (BM + BN) * PITCH;
shared uvec4 mem[STAGE];
#if OUT == 8
// The bytes of the table, a word for each.
shared uint table[256];
#endif
// Of four channels each.
shared ivec4 biases[BN / 4];
shared ivec4 multipliers[BN / 4];

const uint MI = WM / 16;
const uint NJ = WN / 16;
// Of 32 channels, eight of them an invocation's.
const uint PAIRS = NJ / 2;
const uint A_WORDS = BM * STEP;
const uint B_WORDS = BN * STEP;
const uint LOADS_A = (A_WORDS + THREADS - 1) / THREADS;
const uint LOADS_B = (B_WORDS + THREADS - 1) / THREADS;

SUMS acc[MI][NJ];
uvec4 next_a[LOADS_A];
uvec4 next_b[LOADS_B];

// What the sums are turned into, read once: between writes it would be read again and again.
struct Finish {
    uint out_base;
    uint out_row;
    bool has_residual;
    uint residual_base;
    uint residual_row;
    uint residual_shift;
    uint acc_shift;
    int zero_point;
    bool has_table;
};

// Where the invocation's 16-byte words of the first step lie. Rows and channels beyond the last repeat it: what comes of
// them is not written.
uint a_from[LOADS_A];
uint b_from[LOADS_B];

uint group_of_a(uint i, uint tid) {
    return (tid + i * THREADS) % STEP;
}

uint group_of_b(uint i, uint tid) {
    return (tid + i * THREADS >> 2) % STEP;
}

void find(uint m0, uint n0, uint groups, uint tid) {
    const uint x_base = p.x.base >> 2, x_row = p.x_row, rows = p.rows, n = p.n;
    [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
        const uint at = min(tid + i * THREADS, A_WORDS - 1);
        a_from[i] = x_base + min(m0 + at / STEP, rows - 1) * x_row + group_of_a(i, tid);
    }
    // In the order of the packed panels: four channels, then the groups of K.
    [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
        const uint at = min(tid + i * THREADS, B_WORDS - 1);
        const uint c = min(n0 + at / (4 * STEP) * 4 + (at & 3), n - 1);
        b_from[i] = ((c >> 2) * groups + group_of_b(i, tid)) * 4 + (c & 3);
    }
}

void fetch(uint step, uint groups, bool bytes, uint offset, uint tid) {
    const uint group = step * STEP;
    if (group + STEP <= groups) {
        [[unroll]] for (uint i = 0; i < LOADS_A; i++) next_a[i] = data4[a_from[i] + group];
        if (bytes) {
            [[unroll]] for (uint i = 0; i < LOADS_B; i++) next_b[i] = weights_i8(offset, b_from[i] + 4 * group);
        } else {
            [[unroll]] for (uint i = 0; i < LOADS_B; i++) next_b[i] = weights_i4(offset, b_from[i] + 4 * group);
        }
    } else {
        // The last step: groups beyond the last are zero.
        [[unroll]] for (uint i = 0; i < LOADS_A; i++)
            next_a[i] = group + group_of_a(i, tid) < groups ? data4[a_from[i] + group] : uvec4(0);
        [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
            next_b[i] = uvec4(0);
            if (group + group_of_b(i, tid) < groups) {
                const uint at = b_from[i] + 4 * group;
                next_b[i] = bytes ? weights_i8(offset, at) : weights_i4(offset, at);
            }
        }
    }
}

// The column of 32 in which channel `c` of 32 is summed: its bits are those of the channel in another order.
uint column_of(uint c) {
    return c & 1 | c >> 2 & 6 | c << 2 & 8 | c << 2 & 16;
}

void put(uint tid) {
    [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
        const uint at = tid + i * THREADS;
        if (A_WORDS % THREADS == 0 || at < A_WORDS) mem[at / STEP * PITCH + at % STEP] = next_a[i];
    }
    [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
        const uint at = tid + i * THREADS, c = at / (4 * STEP) * 4 + (at & 3);
        const uint row = BM + (c & ~31u) + column_of(c & 31);
        if (B_WORDS % THREADS == 0 || at < B_WORDS) mem[row * PITCH + (at >> 2) % STEP] = next_b[i];
    }
}

#if OUT == 8
// The word of four values of 8 bits each, through the table.
uint looked_up(ivec4 y) {
    const uvec4 at = uvec4(y + 128);
    return table[at.x] | table[at.y] << 8 | table[at.z] << 16 | table[at.w] << 24;
}
#endif

// Four elements of the residual in two words.
ivec4 residuals(uvec2 words, uint shift) {
    const ivec2 both = ivec2(words);
    const ivec4 values = ivec4(both.x << 16 >> 16, both.x >> 16, both.y << 16 >> 16, both.y >> 16);
    if (shift == 0) return values;
    return values + (1 << shift - 1) >> shift;
}

// Four neighbouring channels of one row: those of matrix `j`.
ivec4 four(uint i, uint half_, uint j) {
    const uint e = 4 * half_;
    return ivec4(acc[i][j][e], acc[i][j][e + 1], acc[i][j][e + 2], acc[i][j][e + 3]);
}

void set_four(uint i, uint half_, uint j, ivec4 y) {
    const uint e = 4 * half_;
    [[unroll]] for (uint at = 0; at < 4; at++) acc[i][j][e + at] = y[at];
}

void main() {
    const uint tid = gl_LocalInvocationIndex, lane = gl_SubgroupInvocationID, subgroup = gl_SubgroupID;
    const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint columns = 0;
    [[unroll]] for (uint i = 0; i < JOBS; i++) columns += (jobs[i].n + BN - 1) / BN;
    const uint m0 = group / columns * BM;
    uint column = group % columns;
    job = 0;
    [[unroll]] for (uint i = 0; i + 1 < JOBS; i++) {
        const uint of_job = (jobs[i].n + BN - 1) / BN;
        if (job == i && column >= of_job) {
            column -= of_job;
            job = i + 1;
        }
    }
    const uint n0 = column * BN;
    const uint wm = subgroup / ROW_SUBGROUPS * WM, wn = subgroup % ROW_SUBGROUPS * WN;
    const uint groups = (p.k + 15) / 16;
    const uint steps = (groups + STEP - 1) / STEP;
    const bool bytes = p.dense.format == 8;
    const uint offset = p.dense.weights.offset;
    const uint rows = p.rows, n = p.n;
    Finish f;
    f.out_base = p.out_.base;
    f.out_row = p.out_row;
    f.has_residual = p.residual.constant == 0;
    f.residual_base = p.residual.base;
    f.residual_row = p.residual_row;
    f.residual_shift = p.residual_shift;
    f.acc_shift = p.dense.acc_shift;
    f.zero_point = p.dense.zero_point;
    f.has_table = p.dense.lut.bytes != 0;
    find(m0, n0, groups, tid);
    fetch(0, groups, bytes, offset, tid);
#if OUT == 8
    if (f.has_table)
        for (uint i = tid; i < 256; i += THREADS)
            table[i] = bitfieldExtract(weights[(p.dense.lut.offset >> 2) + (i >> 2)], int(8 * (i & 3)), 8);
#endif
    // Four channels beyond the last are not written: those of the last stand for them.
    for (uint i = tid; i < BN / 4; i += THREADS) {
        const uint quad = min(n0 / 4 + i, n / 4 - 1);
        biases[i] = ivec4(weights4[(p.dense.bias.offset >> 4) + quad]);
        multipliers[i] = OUT == 32 ? ivec4(0) : ivec4(weights4[(p.dense.multipliers.offset >> 4) + quad]);
    }
    [[unroll]] for (uint i = 0; i < MI; i++)
        [[unroll]] for (uint j = 0; j < NJ; j++) acc[i][j] = SUMS(0);

    put(tid);
    barrier();
    for (uint step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        if (more) fetch(step + 1, groups, bytes, offset, tid);
        [[unroll]] for (uint half_ = 0; half_ < STEP / 2; half_++) {
            LEFT a[MI];
            [[unroll]] for (uint i = 0; i < MI; i++)
                coopMatLoad(a[i], mem, (wm + 16 * i) * PITCH + 2 * half_, PITCH, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0; j < NJ; j++) {
                RIGHT b;
                const uint at = (BM + wn + 16 * j) * PITCH + 2 * half_;
                coopMatLoad(b, mem, at, PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < MI; i++) acc[i][j] = coopMatMulAdd(a[i], b, acc[i][j]);
            }
        }
        barrier();
        if (more) {
            put(tid);
            barrier();
        }
    }

    // The invocation's first row and channel.
    const uint first_row = m0 + wm + (lane >> 2), first_channel = wn + 8 * (lane & 3);
#if OUT == 16
    // Residuals are all asked for before the first is needed: writes between them would keep each waiting.
    uvec4 residual[MI][2][PAIRS];
    if (f.has_residual) {
        [[unroll]] for (uint i = 0; i < MI; i++)
            [[unroll]] for (uint half_ = 0; half_ < 2; half_++)
                [[unroll]] for (uint pair = 0; pair < PAIRS; pair++) {
                    const uint row = min(first_row + 16 * i + 8 * half_, rows - 1);
                    const uint channel = min(n0 + first_channel + 32 * pair, n - 8);
                    residual[i][half_][pair] = data4[(f.residual_base + row * f.residual_row + (channel >> 1)) >> 2];
                }
    }
#endif
#ifdef NORM
    int sum[MI][2];
    uvec2 squares[MI][2];
    [[unroll]] for (uint i = 0; i < MI; i++)
        [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
            sum[i][half_] = 0;
            squares[i][half_] = uvec2(0);
        }
#endif
#if OUT == 32
    {
        [[unroll]] for (uint pair = 0; pair < PAIRS; pair++) {
            const uint quad = (first_channel >> 2) + 8 * pair, channel = n0 + first_channel + 32 * pair;
            const ivec4 low_bias = biases[quad], high_bias = biases[quad + 1];
            [[unroll]] for (uint i = 0; i < MI; i++)
                [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
                    const uint row = first_row + 16 * i + 8 * half_, at = f.out_base + row * f.out_row + channel >> 2;
                    const ivec4 low = four(i, half_, 2 * pair) + low_bias;
                    const ivec4 high = four(i, half_, 2 * pair + 1) + high_bias;
                    if (row < rows && channel < n) {
                        data4[at] = uvec4(low);
                        data4[at + 1] = uvec4(high);
                    }
                }
        }
    }
#endif
#if OUT == 8
    {
        [[unroll]] for (uint pair = 0; pair < PAIRS; pair++) {
            const uint quad = (first_channel >> 2) + 8 * pair, channel = n0 + first_channel + 32 * pair;
            const ivec4 low_bias = biases[quad], high_bias = biases[quad + 1];
            const ivec4 low_multiplier = multipliers[quad], high_multiplier = multipliers[quad + 1];
            [[unroll]] for (uint i = 0; i < MI; i++)
                [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
                    const uint row = first_row + 16 * i + 8 * half_;
                    ivec4 low = four(i, half_, 2 * pair) + low_bias << f.acc_shift;
                    ivec4 high = four(i, half_, 2 * pair + 1) + high_bias << f.acc_shift;
                    low = clamp(mulhi_round(low, low_multiplier) + f.zero_point, ivec4(-128), ivec4(127));
                    high = clamp(mulhi_round(high, high_multiplier) + f.zero_point, ivec4(-128), ivec4(127));
                    uvec2 packed;
                    if (f.has_table) {
                        packed = uvec2(looked_up(low), looked_up(high));
                    } else {
                        packed = uvec2(joined_i8(low), joined_i8(high));
                    }
                    if (row < rows && channel < n) data2[f.out_base + row * f.out_row + (channel >> 2) >> 1] = packed;
                }
        }
    }
#endif
#if OUT == 16
    [[unroll]] for (uint pair = 0; pair < PAIRS; pair++) {
        const uint quad = (first_channel >> 2) + 8 * pair, channel = n0 + first_channel + 32 * pair;
        const ivec4 low_bias = biases[quad], high_bias = biases[quad + 1];
        const ivec4 low_multiplier = multipliers[quad], high_multiplier = multipliers[quad + 1];
        [[unroll]] for (uint i = 0; i < MI; i++)
            [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
                const uint row = first_row + 16 * i + 8 * half_;
                const bool there = row < rows && channel < n;
                ivec4 low = four(i, half_, 2 * pair) + low_bias << f.acc_shift;
                ivec4 high = four(i, half_, 2 * pair + 1) + high_bias << f.acc_shift;
                low = mulhi_round(low, low_multiplier);
                high = mulhi_round(high, high_multiplier);
                if (f.has_residual) {
                    low += residuals(residual[i][half_][pair].xy, f.residual_shift);
                    high += residuals(residual[i][half_][pair].zw, f.residual_shift);
                }
                const uvec4 packed = uvec4(packed_i16(low), packed_i16(high));
                if (there) data4[f.out_base + row * f.out_row + (channel >> 1) >> 2] = packed;
#ifdef NORM
                low = there ? clamp(low, ivec4(-32768), ivec4(32767)) : ivec4(0);
                high = there ? clamp(high, ivec4(-32768), ivec4(32767)) : ivec4(0);
                set_four(i, half_, 2 * pair, low);
                set_four(i, half_, 2 * pair + 1, high);
                const ivec4 both = low + high;
                sum[i][half_] += both.x + both.y + both.z + both.w;
                squares[i][half_] += squares_of(low) + squares_of(high);
#endif
            }
    }
#endif
#ifdef NORM
    // Of every row: the parts of its subgroups, then its statistics.
    [[unroll]] for (uint i = 0; i < MI; i++)
        [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
            uvec3 part = uvec3(uint(sum[i][half_]), squares[i][half_]);
            part += subgroupShuffleXor(part, 1);
            part += subgroupShuffleXor(part, 2);
            const uint at = wm + (lane >> 2) + 16 * i + 8 * half_;
            if ((lane & 3) == 0) mem[at * ROW_SUBGROUPS + wn / WN] = uvec4(part, 0);
        }
    barrier();
    const Norm norm = p.norm;
    const bool again = norm.again.constant == 0;
    for (uint row = tid; row < BM; row += THREADS) {
        uvec4 all = uvec4(0);
        [[unroll]] for (uint i = 0; i < ROW_SUBGROUPS; i++) all += mem[row * ROW_SUBGROUPS + i];
        mem[BM * ROW_SUBGROUPS + row] = uvec4(norm_statistics(norm, n, all.xyz), 0);
    }
    barrier();
    [[unroll]] for (uint pair = 0; pair < PAIRS; pair++) {
        const uint channel = first_channel + 32 * pair, quad = min(channel, n - 8) >> 2;
        const uint gammas = (norm.gamma.offset >> 4) + quad, betas = (norm.beta.offset >> 4) + quad;
        const ivec4 low_gamma = ivec4(weights4[gammas]), high_gamma = ivec4(weights4[gammas + 1]);
        const ivec4 low_beta = ivec4(weights4[betas]), high_beta = ivec4(weights4[betas + 1]);
        [[unroll]] for (uint i = 0; i < MI; i++)
            [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
                const uint local = wm + (lane >> 2) + 16 * i + 8 * half_, row = m0 + local;
                const uvec3 stats = mem[BM * ROW_SUBGROUPS + local].xyz;
                const ivec4 low = normed(norm, n, four(i, half_, 2 * pair), stats, low_gamma, low_beta);
                const ivec4 high = normed(norm, n, four(i, half_, 2 * pair + 1), stats, high_gamma, high_beta);
                if (row < rows && channel < n) {
                    const uint to = row * norm.out_row;
                    if (norm.out_.dtype == I8) {
                        const uvec2 packed = uvec2(packed_i8(low), packed_i8(high));
                        data2[(norm.out_.base + to + (channel >> 2)) >> 1] = packed;
                        if (again) data2[(norm.again.base + to + (channel >> 2)) >> 1] = packed;
                    } else {
                        const uvec4 packed = uvec4(packed_i16(low), packed_i16(high));
                        data4[(norm.out_.base + to + (channel >> 1)) >> 2] = packed;
                        if (again) data4[(norm.again.base + to + (channel >> 1)) >> 2] = packed;
                    }
                }
            }
    }
#endif
}
