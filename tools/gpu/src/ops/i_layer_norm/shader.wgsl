// I-LayerNorm with its bias and the dyadic requantization behind it, which takes up to 55 bits.
//
// The variance is not divided by the width; for n <= 2^16 it stays below 2^48.

struct Params {
    rows: Rows,
    bias: Blob,
    ratios: Blob,
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

// The mean, rounded half to even, and the sum of squared distances from it, in halves of 16 bits, which 2^16 of them
// cannot overflow.
fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    var sum = 0i;
    for (var four = lane_of(invocation); four < fours(); four += SPAN) {
        let x = four_of(sample, row, four);
        for (var i = 0u; i < elements_of(four); i++) {
            sum += x[i];
        }
    }
    sum = bitcast<i32>(reduced(SUM, invocation, vec4(bitcast<u32>(sum))).x);
    let mean = mean_half_even(sum, bitcast<i32>(p.rows.n));
    var low = 0u;
    var high = 0u;
    for (var four = lane_of(invocation); four < fours(); four += SPAN) {
        let x = four_of(sample, row, four);
        for (var i = 0u; i < elements_of(four); i++) {
            let distance = bitcast<u32>(abs(x[i] - mean));
            let square = distance * distance;
            low += square & 0xffffu;
            high += square >> 16u;
        }
    }
    let sums = reduced(SUM, invocation, vec4(low, high, 0u, 0u));
    return vec4(bitcast<u32>(mean), sums.xy, 0u);
}

// The mean and floor((2^31 - 1) / std).
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    let variance = add64(shl64(vec2(stats.z, 0u), 16u), vec2(stats.y, 0u));
    return vec4(stats.x, 0x7fffffffu / published_sqrt(variance), 0u, 0u);
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    let distance = x - bitcast<i32>(stats.x);
    let normalized = halved64(mul_i32(distance, bitcast<i32>(stats.y)));
    let bias = vec2(bitcast<u32>(blob_i32(p.bias, 2u * column)), bitcast<u32>(blob_i32(p.bias, 2u * column + 1u)));
    let ratio = blob_ratio(p.ratios, column);
    return scaled_wide(add64(normalized, bias), ratio.x, bitcast<u32>(ratio.y));
}
