#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "memory.glsl"

// Attention on cooperative matrices, for up to 224 keys, heads of up to 64 and no biases.
//
// A workgroup takes the query rows of one head, or a share of them, and holds all keys and values: keys as they lie,
// values transposed. Each subgroup takes sixteen rows at a time. A first pass over the keys finds the maxima of raw
// sums: a multiplier that is not negative keeps their order. A second makes the sums again, 32 keys at a time, turns
// them to exponentials and multiplies those with the values. An invocation's sums are of the rows whose exponentials it
// holds in the left matrix of that product (`memory.glsl`), so they stay in its registers: values lie in the order in
// which the keys come then, and their columns so that eight neighbours of a row end in one invocation.
//
// An exponential is 256 * high + low; its low byte enters as low - 128, which 128 times the sum of the values sets right.

const uint SUBGROUPS = 7;
const uint THREADS = 32 * SUBGROUPS;
layout(local_size_x = 224) in;

struct HeadView {
    uint offset;
    uint batch;
    uint head;
    uint row;
};

layout(set = 0, binding = 2) restrict readonly buffer Parameters {
    Tensor q;
    Tensor k;
    Tensor v;
    Tensor bias0;
    Tensor bias1;
    Tensor out_;
    // Workgroups of a sample, and of one head.
    uint blocks;
    uint shares;
    uint batch;
    uint heads;
    uint kv_group;
    uint n_q;
    uint n_k;
    uint head_dim;
    uint v_dim;
    uint wide_exp;
    uint acc_shift;
    int score_multiplier;
    uint ratio_m;
    uint ratio_shift;
    int zero_point;
    HeadView q_view;
    HeadView k_view;
    HeadView v_view;
    HeadView out_view;
} p;

const uint MAX_KEYS = 224;
const uint K_PITCH = 5;
// 224 keys and 16 bytes more, so that eight rows hit distinct banks.
const uint V_PITCH = 15;
const uint VALUES = MAX_KEYS * K_PITCH;
shared uvec4 mem[VALUES + 64 * V_PITCH];
shared int value_sums[64];

uint row_start(HeadView view, uint batch, uint head, uint row) {
    return view.offset + batch * view.batch + head * view.head + row * view.row;
}

uint exp_u16(uint distance) {
    const uint f = distance & 255u;
    return 32640u - (f * (21926u - f * 22u) >> 8) >> min(distance >> 8, 31u);
}

// What each score needs, read once.
struct Scale {
    uint shift;
    int multiplier;
};

int score(Scale scale, int sum) {
    return mulhi_round(sum << scale.shift, scale.multiplier);
}

// Four words of four columns, one for each of four keys, as four words of four keys.
uvec4 transposed(uvec4 w) {
    const uvec2 even = uvec2(w.x & 0xff00ffu | (w.y & 0xff00ffu) << 8, w.z & 0xff00ffu | (w.w & 0xff00ffu) << 8);
    const uvec2 odd = uvec2(w.x >> 8 & 0xff00ffu | w.y & 0xff00ff00u, w.z >> 8 & 0xff00ffu | w.w & 0xff00ff00u);
    return uvec4(
        even.x & 0xffffu | even.y << 16,
        odd.x & 0xffffu | odd.y << 16,
        even.x >> 16 | even.y & 0xffff0000u,
        odd.x >> 16 | odd.y & 0xffff0000u);
}

const uint KEY_LOADS = MAX_KEYS * 4 / THREADS;

// Where the column `c` of the values lies: see `column_of` in `linear/matrix.comp`.
uint column_place(uint c) {
    return c & ~31u | c & 1 | c >> 2 & 6 | c << 2 & 8 | c << 2 & 16;
}

// Everything is asked for before the first word is stored.
void load(uint k_start, uint v_start, uint tid) {
    const uint n_k = p.n_k, k_row = p.k_view.row, v_row = p.v_view.row, head_dim = p.head_dim, v_dim = p.v_dim;
    const uint k_base = (p.k.base >> 2), v_base = (p.v.base >> 2);
    uvec4 keys[KEY_LOADS];
    [[unroll]] for (uint i = 0; i < KEY_LOADS; i++) {
        const uint at = tid + i * THREADS, chunk = at & 3;
        // Keys beyond the last repeat it: they leave the maximum as it is, and their values are zero.
        const uint key = min(at >> 2, n_k - 1);
        keys[i] = 16 * chunk < head_dim ? data4[k_base + (k_start + key * k_row >> 4) + chunk] : uvec4(0);
    }
    // An invocation has four keys by sixteen columns: the four that meet in one word.
    const uint quad = tid % 56, chunk = tid / 56;
    uvec4 rows[4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
        const uint key = 16 * (quad >> 2) + 2 * (quad & 3) + (i & 1) + 8 * (i >> 1);
        const bool there = key < n_k && 16 * chunk < v_dim;
        rows[i] = there ? data4[v_base + (v_start + key * v_row >> 4) + chunk] : uvec4(0);
    }
    [[unroll]] for (uint i = 0; i < KEY_LOADS; i++) {
        const uint at = tid + i * THREADS;
        mem[(at >> 2) * K_PITCH + (at & 3)] = keys[i];
    }
    [[unroll]] for (uint word = 0; word < 4; word++) {
        const uvec4 columns = transposed(uvec4(rows[0][word], rows[1][word], rows[2][word], rows[3][word]));
        [[unroll]] for (uint i = 0; i < 4; i++) {
            mem[VALUES + column_place(16 * chunk + 4 * word + i) * V_PITCH + (quad >> 2)][quad & 3] = columns[i];
        }
    }
}

// 128 times the sum of column `column`, from bytes that count 128 too much each.
int value_sum(uint column) {
    uint even = 0, odd = 0;
    for (uint i = 0; i < 14; i++) {
        const uvec4 words = mem[VALUES + column_place(column) * V_PITCH + i] ^ 0x80808080u;
        [[unroll]] for (uint j = 0; j < 4; j++) {
            even += words[j] & 0xff00ffu;
            odd += words[j] >> 8 & 0xff00ffu;
        }
    }
    const uint all = (even & 0xffffu) + (even >> 16) + (odd & 0xffffu) + (odd >> 16);
    return (int(all) - 128 * 224) * 128;
}

SUMS scores(LEFT q[2], uint first_key) {
    SUMS sums = SUMS(0);
    [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
        RIGHT k;
        coopMatLoad(k, mem, first_key * K_PITCH + 2 * half_, K_PITCH, gl_CooperativeMatrixLayoutColumnMajor);
        sums = coopMatMulAdd(q[half_], k, sums);
    }
    return sums;
}

// The multiplier and the shift that divide by the sum of a row.
uvec2 row_scale(uint sum) {
    const uint positive = max(sum, 1u);
    const int zeros = 31 - findMSB(positive);
    const uint reciprocal = 0xffffffffu / (positive << zeros >> 16);
    return uvec2(p.ratio_m * reciprocal >> 1, uint(clamp(int(p.ratio_shift + 15) - zeros, 1, 31)));
}

void attend(uint sample_index, uint batch, uint head, uint first_row, uint lane) {
    const uint quarter = lane & 3;
    const int zero_point = p.zero_point;
    const uint n_k = p.n_k, v_dim = p.v_dim, head_dim = p.head_dim;
    const Scale scale = Scale(p.acc_shift, p.score_multiplier);
    const uint q_base = p.q.base + sample_index * p.q.stride;
    // Rows beyond the last repeat it and are not written.
    uint words[2][4];
    [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
        const uint row = min(first_row + 8 * half_ + (lane >> 2), p.n_q - 1);
        const uint from = q_base + (row_start(p.q_view, batch, head, row) >> 2) + quarter;
        [[unroll]] for (uint chunk = 0; chunk < 4; chunk++)
            words[half_][chunk] = 16 * chunk < head_dim ? data[from + 4 * chunk] : 0;
    }
    LEFT q[2];
    [[unroll]] for (uint i = 0; i < 2; i++)
        [[unroll]] for (uint e = 0; e < 16; e++)
            q[i][e] = int8_t(bitfieldExtract(int(words[e >> 3][2 * i + (e >> 2 & 1)]), int(8 * (e & 3)), 8));

    SUMS largest = SUMS(-2147483647 - 1);
    for (uint key = 0; key < n_k; key += 16) {
        SUMS sums = scores(q, key);
        [[unroll]] for (uint i = 0; i < largest.length(); i++) largest[i] = max(largest[i], sums[i]);
    }
    ivec2 row_max;
    [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
        const uint e = 4 * half_;
        row_max[half_] = max(max(largest[e], largest[e + 1]), max(largest[e + 2], largest[e + 3]));
    }
    row_max = max(row_max, subgroupShuffleXor(row_max, 1));
    row_max = max(row_max, subgroupShuffleXor(row_max, 2));
    row_max = ivec2(score(scale, row_max.x), score(scale, row_max.y));

    SUMS total[4];
    [[unroll]] for (uint j = 0; j < 4; j++) total[j] = SUMS(0);
    uvec2 sum = uvec2(0), last;
    for (uint key = 0; key < n_k; key += 32) {
        LEFT low;
#ifdef WIDE
        LEFT high;
#endif
        [[unroll]] for (uint i = 0; i < 2; i++) {
            SUMS sums = scores(q, key + 16 * i);
            [[unroll]] for (uint e = 0; e < 8; e++) {
                const uint half_ = e >> 2, at = 8 * half_ + 4 * i + (e & 3);
                uint exponential = exp_u16(uint(row_max[half_] - score(scale, sums[e])));
#ifdef WIDE
                high[at] = int8_t(int(exponential >> 8));
#else
                exponential = exponential + 64 >> 7;
#endif
                low[at] = int8_t(int(exponential ^ 0x80u));
                sum[half_] += exponential;
                last[half_] = exponential;
            }
        }
        [[unroll]] for (uint j = 0; j < 4; j++) {
            RIGHT v;
            const uint at = VALUES + 16 * j * V_PITCH + (key >> 4);
            coopMatLoad(v, mem, at, V_PITCH, gl_CooperativeMatrixLayoutColumnMajor);
#ifdef WIDE
            SUMS above = coopMatMulAdd(high, v, SUMS(0));
            [[unroll]] for (uint i = 0; i < above.length(); i++) total[j][i] += above[i] << 8;
#endif
            total[j] = coopMatMulAdd(low, v, total[j]);
        }
    }
    sum += subgroupShuffleXor(sum, 1);
    sum += subgroupShuffleXor(sum, 2);
    // What repeats the last key counts once: the last column of all is such a one, or that key itself.
    sum -= (0u - n_k & 31u) * subgroupShuffle(last, lane | 3);

    const uint to = p.out_.base + sample_index * p.out_.stride >> 1;
    [[unroll]] for (uint half_ = 0; half_ < 2; half_++) {
        const uvec2 divisor = row_scale(sum[half_]);
        const uint row = first_row + 8 * half_ + (lane >> 2);
        const uint written = to + (row_start(p.out_view, batch, head, row) >> 3);
        [[unroll]] for (uint pair = 0; pair < 2; pair++) {
            const uint column = 32 * pair + 8 * quarter;
            uvec2 packed;
            [[unroll]] for (uint i = 0; i < 2; i++) {
                ivec4 y;
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    int above, below;
                    const int all = total[2 * pair + i][4 * half_ + j] + value_sums[column + 4 * i + j];
                    imulExtended(all, int(divisor.x), above, below);
                    y[j] = zero_point + (above + (1 << divisor.y - 1) >> divisor.y);
                }
                packed[i] = packed_i8(y);
            }
            if (row < p.n_q && column < v_dim) data2[written + (column >> 3)] = packed;
        }
    }
}

void main() {
    const uint tid = gl_LocalInvocationIndex, lane = gl_SubgroupInvocationID, subgroup = gl_SubgroupID;
    const uint sample_index = gl_WorkGroupID.z;
    const uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    if (group >= p.blocks) return;
    const uint head_of_all = group / p.shares, share = group % p.shares;
    const uint batch = head_of_all / p.heads, head = head_of_all % p.heads;
    const uint kv_head = head / p.kv_group;
    const uint k_start = sample_index * p.k.stride * 4 + row_start(p.k_view, batch, kv_head, 0);
    load(k_start, sample_index * p.v.stride * 4 + row_start(p.v_view, batch, kv_head, 0), tid);
    barrier();
    if (tid < 64) value_sums[tid] = value_sum(tid);
    barrier();
    for (uint block = share * SUBGROUPS + subgroup; 16 * block < p.n_q; block += p.shares * SUBGROUPS)
        attend(sample_index, batch, head, 16 * block, lane);
}
