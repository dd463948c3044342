// Per row of a LayerNorm or RMSNorm: the sum, the reciprocal square root of the scaled variance and the shift of the
// centred values, as three words.
//
// V = n * sum(x^2) - sum(x)^2 + eps in 64 bits; V = m * 4^e with m in [2^30, 2^32).

struct Params {
    x: Tensor,
    out: Tensor,
    rows: u32,
    n: u32,
    rms: u32,
    eps_low: u32,
    eps_high: u32,
    gamma: Blob,
    beta: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

// 2^29 / sqrt(m / 2^32) by four Newton steps from the line 2.2 - 1.2 m.
fn reciprocal_sqrt(m: u32) -> u32 {
    let one = 1u << 29u;
    var r = 1181116006u - mul_u32(m, 644245094u).y;
    for (var step = 0u; step < 4u; step++) {
        let square = shr64(mul_u32(r, r), 29u).x;
        let product = mul_u32(m, square).y;
        let factor = select(0u, 3u * one - product, product <= 3u * one);
        r = shr64(mul_u32(r, factor), 30u).x;
    }
    return r;
}

fn highest_bit(v: vec2<u32>) -> i32 {
    if v.y != 0u {
        return 63 - bitcast<i32>(countLeadingZeros(v.y));
    }
    return 31 - bitcast<i32>(countLeadingZeros(v.x));
}

fn write_stats(sample: u32, row: u32, sum: i32, variance: vec2<u32>) {
    var root = 0u;
    var shift = 0i;
    if variance.x != 0u || variance.y != 0u {
        let e = (highest_bit(variance) >> 1u) - 15;
        var m = 0u;
        if e >= 0 {
            m = shr64(variance, bitcast<u32>(2 * e)).x;
        } else {
            m = shl64(variance, bitcast<u32>(-2 * e)).x;
        }
        root = reciprocal_sqrt(m);
        shift = 8 - e;
    }
    set_word(p.out, sample, row * 3u, bitcast<u32>(sum));
    set_word(p.out, sample, row * 3u + 1u, root);
    set_word(p.out, sample, row * 3u + 2u, bitcast<u32>(shift));
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
    // Squares are summed in halves of 16 bits: for n <= 4096 neither sum reaches 2^28.
    var sum = 0i;
    var low = 0u;
    var high = 0u;
    for (var i = lane; i < p.n; i += 64u) {
        let x = element(p.x, group.z, row * p.n + i);
        let square = bitcast<u32>(x * x);
        sum += x;
        low += square & 0xffffu;
        high += square >> 16u;
    }
    let sums = reduce_sum(lane, vec4(bitcast<u32>(sum), low, high, 0u));
    if lane == 0u {
        sum = select(bitcast<i32>(sums.x), 0, p.rms != 0u);
        let squares = add64(shl64(vec2(sums.z, 0u), 16u), vec2(sums.y, 0u));
        let scaled = add64(mul_u32(squares.x, p.n), vec2(0u, squares.y * p.n));
        let magnitude = bitcast<u32>(abs(sum));
        let variance = add64(sub64(scaled, mul_u32(magnitude, magnitude)), vec2(p.eps_low, p.eps_high));
        write_stats(group.z, row, sum, variance);
    }
}
