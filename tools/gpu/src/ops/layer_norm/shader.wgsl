// LayerNorm and RMSNorm.
//
// V = n * sum(x^2) - sum(x)^2 + eps in 64 bits; V = m * 4^e with m in [2^30, 2^32).

struct Params {
    rows: Rows,
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

// The sum of the row and that of its squares, in halves of 16 bits: for n <= 4096 neither reaches 2^28.
fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    var sum = 0i;
    var low = 0u;
    var high = 0u;
    for (var four = lane_of(invocation); four < fours(); four += SPAN) {
        let x = four_of(sample, row, four);
        for (var i = 0u; i < elements_of(four); i++) {
            let square = bitcast<u32>(x[i] * x[i]);
            sum += x[i];
            low += square & 0xffffu;
            high += square >> 16u;
        }
    }
    return reduced(SUM, invocation, vec4(bitcast<u32>(sum), low, high, 0u));
}

// The sum, the reciprocal square root of the scaled variance, and the shift of the centred values.
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    let sum = select(bitcast<i32>(stats.x), 0, p.rms != 0u);
    let squares = add64(shl64(vec2(stats.z, 0u), 16u), vec2(stats.y, 0u));
    let scaled = add64(mul_u32(squares.x, p.rows.n), vec2(0u, squares.y * p.rows.n));
    let magnitude = bitcast<u32>(abs(sum));
    let variance = add64(sub64(scaled, mul_u32(magnitude, magnitude)), vec2(p.eps_low, p.eps_high));
    if variance.x == 0u && variance.y == 0u {
        return vec4(bitcast<u32>(sum), 0u, 0u, 0u);
    }
    let e = (highest_bit(variance) >> 1u) - 15;
    var m = 0u;
    if e >= 0 {
        m = shr64(variance, bitcast<u32>(2 * e)).x;
    } else {
        m = shl64(variance, bitcast<u32>(-2 * e)).x;
    }
    return vec4(bitcast<u32>(sum), reciprocal_sqrt(m), bitcast<u32>(8 - e), 0u);
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    let shift = bitcast<i32>(stats.z);
    let centred = bitcast<i32>(p.rows.n) * x - bitcast<i32>(stats.x);
    var scaled = 0i;
    if shift >= 0 {
        scaled = centred << bitcast<u32>(shift);
    } else {
        scaled = centred >> bitcast<u32>(-shift);
    }
    let normalized = mulhi_round(scaled, bitcast<i32>(stats.y));
    let y = mulhi_round(normalized, blob_i32(p.gamma, column)) + blob_i32(p.beta, column);
    // Fractional bits of gamma and beta for each output width.
    return y >> select(4u, 8u, TO == I8);
}
