#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "memory.glsl"

// Attention on cooperative matrices, for up to 208 keys, heads of up to 64 and no biases.
//
// A workgroup takes the query rows of one head, or a share of them, and holds all keys and values: keys as they lie,
// values transposed. Each subgroup takes sixteen rows at a time. A first pass over the keys finds the maxima of raw
// sums: a multiplier that is not negative keeps their order. A second makes the sums again, 32 keys at a time, turns
// them to exponentials and multiplies those with the values. KHR does not say which invocation holds which sum, so sums
// and exponentials pass through words of the subgroup's own, where two invocations share a row.
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

const uint MAX_KEYS = 208;
const uint K_PITCH = 5;
// 224 keys and 16 bytes more, so that eight rows hit distinct banks.
const uint V_PITCH = 15;
const uint VALUES = MAX_KEYS * K_PITCH;
const uint OWN = VALUES + 64 * V_PITCH;
const uint SUM_PITCH = 9;
const uint EXP_PITCH = 3;
const uint OWN_WORDS = 16 * SUM_PITCH;
shared uvec4 mem[OWN + SUBGROUPS * OWN_WORDS];
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

void load_keys(uint start, uint tid) {
    for (uint i = tid; i < MAX_KEYS * 4; i += THREADS) {
        // Keys beyond the last repeat it: they leave the maximum as it is.
        const uint key = min(i >> 2, p.n_k - 1), chunk = i & 3;
        const uint at = (start + key * p.k_view.row >> 4) + chunk;
        mem[(i >> 2) * K_PITCH + chunk] = 16 * chunk < p.head_dim ? data4[(p.k.base >> 2) + at] : uvec4(0);
    }
}

// An invocation has four keys by sixteen columns.
void load_values(uint start, uint tid) {
    const uint quad = tid % 56, chunk = tid / 56;
    uvec4 rows[4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
        const uint key = 4 * quad + i;
        const bool there = key < p.n_k && 16 * chunk < p.v_dim;
        rows[i] = there ? data4[(p.v.base >> 2) + (start + key * p.v_view.row >> 4) + chunk] : uvec4(0);
    }
    [[unroll]] for (uint word = 0; word < 4; word++) {
        const uvec4 columns = transposed(uvec4(rows[0][word], rows[1][word], rows[2][word], rows[3][word]));
        [[unroll]] for (uint i = 0; i < 4; i++) {
            mem[VALUES + (16 * chunk + 4 * word + i) * V_PITCH + (quad >> 2)][quad & 3] = columns[i];
        }
    }
}

// 128 times the sum of column `column`, from bytes that count 128 too much each.
int value_sum(uint column) {
    uint even = 0, odd = 0;
    for (uint i = 0; i < 14; i++) {
        const uvec4 words = mem[VALUES + column * V_PITCH + i] ^ 0x80808080u;
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

void attend(uint sample_index, uint batch, uint head, uint first_row, uint own, uint lane) {
    const uint row = lane >> 1, part = lane & 1;
    const int zero_point = p.zero_point;
    const uint n_k = p.n_k, v_dim = p.v_dim;
    const bool wide = p.wide_exp != 0;
    const Scale scale = Scale(p.acc_shift, p.score_multiplier);
    const uint q_base = p.q.base + sample_index * p.q.stride >> 2;
    [[unroll]] for (uint i = 0; i < 2; i++) {
        const uint at = lane + 32 * i, chunk = at & 3;
        // Rows beyond the last repeat it and are not written.
        const uint from = row_start(p.q_view, batch, head, min(first_row + (at >> 2), p.n_q - 1)) >> 4;
        mem[own + (at >> 2) * K_PITCH + chunk] = 16 * chunk < p.head_dim ? data4[q_base + from + chunk] : uvec4(0);
    }
    subgroup_barrier();
    LEFT q[2];
    [[unroll]] for (uint i = 0; i < 2; i++)
        coopMatLoad(q[i], mem, own + 2 * i, K_PITCH, gl_CooperativeMatrixLayoutRowMajor);
    subgroup_barrier();

    SUMS largest = SUMS(-2147483647 - 1);
    for (uint key = 0; key < n_k; key += 16) {
        SUMS sums = scores(q, key);
        [[unroll]] for (uint i = 0; i < largest.length(); i++) largest[i] = max(largest[i], sums[i]);
    }
    coopMatStore(largest, mem, own, K_PITCH, gl_CooperativeMatrixLayoutRowMajor);
    subgroup_barrier();
    const ivec4 of = max(ivec4(mem[own + row * K_PITCH + 2 * part]), ivec4(mem[own + row * K_PITCH + 2 * part + 1]));
    int row_max = max(max(of.x, of.y), max(of.z, of.w));
    row_max = score(scale, max(row_max, subgroupShuffleXor(row_max, 1)));
    subgroup_barrier();

    SUMS total[4];
    [[unroll]] for (uint j = 0; j < 4; j++) total[j] = SUMS(0);
    uint sum = 0;
    for (uint key = 0; key < n_k; key += 32) {
        [[unroll]] for (uint i = 0; i < 2; i++)
            coopMatStore(scores(q, key + 16 * i), mem, own + 4 * i, SUM_PITCH, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
        ivec4 sums[4];
        [[unroll]] for (uint i = 0; i < 4; i++) sums[i] = ivec4(mem[own + row * SUM_PITCH + 4 * part + i]);
        subgroup_barrier();
        uvec4 low_bytes, high_bytes;
        [[unroll]] for (uint i = 0; i < 4; i++) {
            uvec4 e;
            [[unroll]] for (uint j = 0; j < 4; j++) {
                e[j] = exp_u16(uint(row_max - score(scale, sums[i][j])));
                if (!wide) e[j] = e[j] + 64 >> 7;
                if (key + 16 * part + 4 * i + j >= n_k) e[j] = 0;
            }
            sum += e.x + e.y + e.z + e.w;
            const uvec4 l = e & 0xffu, h = e >> 8;
            low_bytes[i] = (l.x | l.y << 8 | l.z << 16 | l.w << 24) ^ 0x80808080u;
            high_bytes[i] = h.x | h.y << 8 | h.z << 16 | h.w << 24;
        }
        mem[own + row * EXP_PITCH + part] = low_bytes;
        mem[own + (16 + row) * EXP_PITCH + part] = high_bytes;
        subgroup_barrier();
        LEFT l;
        LEFT h;
        coopMatLoad(l, mem, own, EXP_PITCH, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(h, mem, own + 16 * EXP_PITCH, EXP_PITCH, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
        [[unroll]] for (uint j = 0; j < 4; j++)
            if (16 * j < v_dim) {
                RIGHT v;
                const uint at = VALUES + 16 * j * V_PITCH + (key >> 4);
                coopMatLoad(v, mem, at, V_PITCH, gl_CooperativeMatrixLayoutColumnMajor);
                if (wide) {
                    SUMS high = coopMatMulAdd(h, v, SUMS(0));
                    [[unroll]] for (uint i = 0; i < high.length(); i++) total[j][i] += high[i] << 8;
                }
                total[j] = coopMatMulAdd(l, v, total[j]);
            }
    }
    const uvec2 divisor = row_scale(sum + subgroupShuffleXor(sum, 1));

    const uint to = p.out_.base + sample_index * p.out_.stride >> 2;
    const uint written = to + (row_start(p.out_view, batch, head, first_row + row) >> 4);
    [[unroll]] for (uint pair = 0; pair < 2; pair++) {
        [[unroll]] for (uint i = 0; i < 2; i++)
            coopMatStore(total[2 * pair + i], mem, own + 4 * i, SUM_PITCH, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
        const uint column = 32 * pair + 16 * part;
        uvec4 packed;
        [[unroll]] for (uint i = 0; i < 4; i++) {
            const ivec4 sums = ivec4(mem[own + row * SUM_PITCH + 4 * part + i]);
            ivec4 y;
            [[unroll]] for (uint j = 0; j < 4; j++) {
                int above, below;
                imulExtended(sums[j] + value_sums[column + 4 * i + j], int(divisor.x), above, below);
                y[j] = zero_point + (above + (1 << divisor.y - 1) >> divisor.y);
            }
            packed[i] = packed_i8(y);
        }
        if (first_row + row < p.n_q && column < v_dim) data4[written + (column >> 4)] = packed;
        subgroup_barrier();
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
    load_keys(sample_index * p.k.stride * 4 + row_start(p.k_view, batch, kv_head, 0), tid);
    load_values(sample_index * p.v.stride * 4 + row_start(p.v_view, batch, kv_head, 0), tid);
    barrier();
    if (tid < 64) value_sums[tid] = value_sum(tid);
    barrier();
    for (uint block = share * SUBGROUPS + subgroup; 16 * block < p.n_q; block += p.shares * SUBGROUPS)
        attend(sample_index, batch, head, 16 * block, OWN + subgroup * OWN_WORDS, lane);
}
