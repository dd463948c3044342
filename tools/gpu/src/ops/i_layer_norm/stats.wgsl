// Per row of an I-LayerNorm: the mean, rounded half to even, and floor((2^31 - 1) / std), as two words.
//
// The variance is not divided by the width; for n <= 2^16 it stays below 2^48.

struct Params {
    x: Tensor,
    out: Tensor,
    rows: u32,
    n: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

// floor(v / d) for v.y < d, one bit at a time.
fn divided(v: vec2<u32>, d: u32) -> u32 {
    var rest = v.y;
    var quotient = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        let carry = rest >> 31u;
        rest = (rest << 1u) | ((v.x >> (31u - bit)) & 1u);
        quotient = quotient << 1u;
        if carry == 1u || rest >= d {
            rest -= d;
            quotient |= 1u;
        }
    }
    return quotient;
}

// Ten steps of k = (k + v / k) / 2 from 2^16, as published. After the first step k is not below the root, so that the
// quotient fits one word; in the first it does because v < 2^48.
fn published_sqrt(v: vec2<u32>) -> u32 {
    var k = 1u << 16u;
    for (var i = 0u; i < 10u; i++) {
        k = (k + divided(v, k)) >> 1u;
    }
    return k;
}

fn mean_half_even(sum: i32, n: i32) -> i32 {
    var quotient = sum / n;
    var rest = sum - quotient * n;
    if rest < 0 {
        quotient -= 1;
        rest += n;
    }
    if rest > n - rest || (rest == n - rest && (quotient & 1) == 1) {
        quotient += 1;
    }
    return quotient;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.rows {
        return;
    }
    var sum = 0i;
    for (var i = lane; i < p.n; i += 64u) {
        sum += element(p.x, group.z, row * p.n + i);
    }
    sum = bitcast<i32>(reduce_sum(lane, vec4(bitcast<u32>(sum), 0u, 0u, 0u)).x);
    let mean = mean_half_even(sum, bitcast<i32>(p.n));
    // Squares are summed in halves of 16 bits, which 2^16 of them cannot overflow.
    var low = 0u;
    var high = 0u;
    for (var i = lane; i < p.n; i += 64u) {
        let distance = bitcast<u32>(abs(element(p.x, group.z, row * p.n + i) - mean));
        let square = distance * distance;
        low += square & 0xffffu;
        high += square >> 16u;
    }
    let sums = reduce_sum(lane, vec4(low, high, 0u, 0u));
    if lane == 0u {
        let variance = add64(shl64(vec2(sums.y, 0u), 16u), vec2(sums.x, 0u));
        set_word(p.out, group.z, row * 2u, bitcast<u32>(mean));
        set_word(p.out, group.z, row * 2u + 1u, 0x7fffffffu / published_sqrt(variance));
    }
}
