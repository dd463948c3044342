#version 460
#extension GL_GOOGLE_include_directive : require
#include "memory.glsl"
#include "weights.glsl"

// Dense layers on cooperative matrices: the rows of all samples are one matrix, whose rows lie one behind the other.
//
// A workgroup of eight subgroups sums BM rows by BN channels, each subgroup WM by WN, over steps of 64 K. Rows of 64 bytes
// lie 80 apart in workgroup memory, so that eight of them hit distinct banks; the next step is fetched while one is
// summed. KHR does not say which invocation holds which sum: each subgroup passes its sums through words of its own,
// sixteen rows at a time, and writes eight channels of a row per invocation.

const uint THREADS = 256;
layout(local_size_x = 256) in;

layout(set = 0, binding = 2) restrict readonly buffer Parameters {
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
} p;

const uint PITCH = 5;
const uint STAGE = (BM + BN) * PITCH;
shared uvec4 mem[2 * STAGE];
shared uint table[64];
// Of four channels each.
shared ivec4 biases[BN / 4];
shared ivec4 multipliers[BN / 4];

const uint MI = WM / 16;
const uint NJ = WN / 16;
const uint LOADS_A = BM * 4 / THREADS;
const uint LOADS_B = BN * 4 / THREADS;
// From one row of a subgroup's sums to the next, in 16-byte words.
const uint SUM_PITCH = NJ * 4 + 1;

SUMS acc[MI][NJ];
uvec4 next_a[LOADS_A];
uvec4 next_b[LOADS_B];

// What is multiplied: the first row and channel of the tile, and where they end.
struct Tile {
    uint row;
    uint rows;
    uint x_base;
    uint x_row;
    uint channel;
    uint channels;
    uint groups;
    Dense dense;
};

// What the sums are turned into, read once: between writes it would be read again and again.
struct Finish {
    uint dtype;
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

void fetch(Tile t, uint step, uint tid) {
    [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
        const uint at = tid + i * THREADS, r = t.row + (at >> 2), group = step * 4 + (at & 3);
        next_a[i] = r < t.rows && group < t.groups ? data4[t.x_base + r * t.x_row + group] : uvec4(0);
    }
    // In the order of the packed panels: four channels, then four groups of K.
    [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
        const uint at = tid + i * THREADS;
        const uint c = t.channel + (at >> 4) * 4 + (at & 3), group = step * 4 + (at >> 2 & 3);
        next_b[i] = c < t.channels && group < t.groups ? sixteen_weights(t.dense, t.groups, c, group) : uvec4(0);
    }
}

void put(uint stage, uint tid) {
    [[unroll]] for (uint i = 0; i < LOADS_A; i++) {
        const uint at = tid + i * THREADS;
        mem[stage + (at >> 2) * PITCH + (at & 3)] = next_a[i];
    }
    [[unroll]] for (uint i = 0; i < LOADS_B; i++) {
        const uint at = tid + i * THREADS;
        mem[stage + (BM + (at >> 4) * 4 + (at & 3)) * PITCH + (at >> 2 & 3)] = next_b[i];
    }
}

ivec4 looked_up(ivec4 y) {
    ivec4 found;
    [[unroll]] for (int i = 0; i < 4; i++) {
        const uint at = uint(y[i] + 128);
        found[i] = bitfieldExtract(int(table[at >> 2]), int(8 * (at & 3)), 8);
    }
    return found;
}

// Four elements of the residual in two words.
ivec4 residuals(uvec2 words, uint shift) {
    const ivec2 both = ivec2(words);
    const ivec4 values = ivec4(both.x << 16 >> 16, both.x >> 16, both.y << 16 >> 16, both.y >> 16);
    if (shift == 0) return values;
    return values + (1 << shift - 1) >> shift;
}

// Writes the sums of the eight channels from `channel` of one row, the tile's quads `quad` and `quad + 1`.
void write(Finish f, uint row, uint channel, uint quad, ivec4 low, ivec4 high) {
    low += biases[quad];
    high += biases[quad + 1];
    const uint to = f.out_base + row * f.out_row;
    if (f.dtype == I32) {
        data4[(to + channel) >> 2] = uvec4(low);
        data4[((to + channel) >> 2) + 1] = uvec4(high);
        return;
    }
    low = mulhi_round(low << f.acc_shift, multipliers[quad]);
    high = mulhi_round(high << f.acc_shift, multipliers[quad + 1]);
    if (f.dtype == I8) {
        low = clamp(low + f.zero_point, ivec4(-128), ivec4(127));
        high = clamp(high + f.zero_point, ivec4(-128), ivec4(127));
        if (f.has_table) {
            low = looked_up(low);
            high = looked_up(high);
        }
        data2[(to + (channel >> 2)) >> 1] = uvec2(packed_i8(low), packed_i8(high));
        return;
    }
    if (f.has_residual) {
        const uvec4 words = data4[(f.residual_base + row * f.residual_row + (channel >> 1)) >> 2];
        low += residuals(words.xy, f.residual_shift);
        high += residuals(words.zw, f.residual_shift);
    }
    data4[(to + (channel >> 1)) >> 2] = uvec4(packed_i16(low), packed_i16(high));
}

void main() {
    const uint tid = gl_LocalInvocationIndex, lane = gl_SubgroupInvocationID, subgroup = gl_SubgroupID;
    const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    const uint columns = (p.n + BN - 1) / BN;
    const uint m0 = group / columns * BM, n0 = group % columns * BN;
    const uint wm = subgroup / (BN / WN) * WM, wn = subgroup % (BN / WN) * WN;
    const uint groups = (p.k + 15) / 16;
    const uint steps = (groups + 3) / 4;
    const Tile t = Tile(m0, p.rows, p.x.base >> 2, p.x_row, n0, p.n, groups, p.dense);

    const uint rows = p.rows, n = p.n;
    Finish f;
    f.dtype = p.out_.dtype;
    f.out_base = p.out_.base;
    f.out_row = p.out_row;
    f.has_residual = p.residual.constant == 0;
    f.residual_base = p.residual.base;
    f.residual_row = p.residual_row;
    f.residual_shift = p.residual_shift;
    f.acc_shift = p.dense.acc_shift;
    f.zero_point = p.dense.zero_point;
    f.has_table = p.dense.lut.bytes != 0;
    if (f.has_table && tid < 64) table[tid] = weights[(p.dense.lut.offset >> 2) + tid];
    // Four channels beyond the last are not written: those of the last stand for them.
    if (tid < BN / 4) {
        const uint quad = min(n0 / 4 + tid, n / 4 - 1);
        biases[tid] = ivec4(weights4[(p.dense.bias.offset >> 4) + quad]);
        multipliers[tid] = f.dtype == I32 ? ivec4(0) : ivec4(weights4[(p.dense.multipliers.offset >> 4) + quad]);
    }
    [[unroll]] for (uint i = 0; i < MI; i++)
        [[unroll]] for (uint j = 0; j < NJ; j++) acc[i][j] = SUMS(0);

    fetch(t, 0, tid);
    put(0, tid);
    barrier();
    for (uint step = 0; step < steps; step++) {
        const uint from = (step & 1) * STAGE;
        const bool more = step + 1 < steps;
        if (more) fetch(t, step + 1, tid);
        [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
            LEFT a[MI];
            [[unroll]] for (uint i = 0; i < MI; i++)
                coopMatLoad(a[i], mem, from + (wm + 16 * i) * PITCH + 2 * half_, PITCH, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0; j < NJ; j++) {
                RIGHT b;
                const uint at = from + (BM + wn + 16 * j) * PITCH + 2 * half_;
                coopMatLoad(b, mem, at, PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < MI; i++) acc[i][j] = coopMatMulAdd(a[i], b, acc[i][j]);
            }
        }
        if (more) put(((step + 1) & 1) * STAGE, tid);
        barrier();
    }

    const uint own = subgroup * 16 * SUM_PITCH;
    [[unroll]] for (uint i = 0; i < MI; i++) {
        [[unroll]] for (uint j = 0; j < NJ; j++)
            coopMatStore(acc[i][j], mem, own + 4 * j, SUM_PITCH, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
        [[unroll]] for (uint part = 0; part < NJ; part++) {
            const uint unit = lane + 32 * part, r = unit / (2 * NJ), c = unit % (2 * NJ);
            const uint at = own + r * SUM_PITCH + 2 * c;
            const uint row = m0 + wm + 16 * i + r, channel = wn + 8 * c;
            if (row < rows && n0 + channel < n)
                write(f, row, n0 + channel, channel >> 2, ivec4(mem[at]), ivec4(mem[at + 1]));
        }
        subgroup_barrier();
    }
}
