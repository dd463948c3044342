// Dense layer whose products are additions of floating-point patterns.

struct Params {
    elements: Elements,
    x: Tensor,
    rows: u32,
    k: u32,
    n: u32,
    format: u32,
    base: u32,
    top: u32,
    acc_shift: u32,
    zero_point: i32,
    weights: Blob,
    bias: Blob,
    multipliers: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

const BF16: u32 = 87u;

// The whole number of the pattern of a product.
fn of_pattern(pattern: u32, m: u32) -> i32 {
    let mantissa = bitcast<i32>((1u << m) | (pattern & ((1u << m) - 1u)));
    let exponent = pattern >> m;
    if exponent >= p.base {
        return mantissa << min(exponent - p.base, p.top);
    }
    return rshift_round(mantissa, min(p.base - exponent, 30u));
}

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.n;
    let channel = index % p.n;
    let wide = p.format == BF16;
    // The last digit of the code.
    let m = p.format % 10u;
    let sign = select(0x80u, 0x8000u, wide);
    // l(m) of L-Mul.
    let offset = 1u << (m - select(m, 4u, m > 4u));
    var acc = blob_i32(p.bias, channel);
    for (var i = 0u; i < p.k; i++) {
        let a = bitcast<u32>(element(p.x, sample, row * p.k + i));
        var b: u32;
        if wide {
            b = bitcast<u32>(blob_i16(p.weights, channel * p.k + i));
        } else {
            b = bitcast<u32>(blob_i8(p.weights, channel * p.k + i));
        }
        let size_a = a & (sign - 1u);
        let size_b = b & (sign - 1u);
        if (size_a >> m) != 0u && (size_b >> m) != 0u {
            let size = of_pattern(size_a + size_b + offset, m);
            acc += select(size, -size, ((a ^ b) & sign) != 0u);
        }
    }
    return p.zero_point + mulhi_round(acc << p.acc_shift, blob_i32(p.multipliers, channel));
}
