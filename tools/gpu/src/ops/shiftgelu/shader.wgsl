// ShiftGELU: `x * sigmoid(1.702 x)` with a sigmoid of 8 bits that is scaled by the row's maximum.

struct Params {
    rows: Rows,
    period: u32,
    halvings: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn gathered(sample: u32, row: u32, invocation: u32) -> vec4<u32> {
    return vec4(bitcast<u32>(row_maximum(sample, row, invocation)), 0u, 0u, 0u);
}

// The maximum and the exponential at zero, which all elements share.
fn statistics(stats: vec4<u32>) -> vec4<u32> {
    return vec4(stats.x, clamped_to_one(shift_exp(p.period, p.halvings, -bitcast<i32>(stats.x))), 0u, 0u);
}

fn value(x: i32, column: u32, stats: vec4<u32>) -> i32 {
    let e = shift_exp(p.period, p.halvings, x - bitcast<i32>(stats.x));
    let sum = min(clamped_to_one(e) + stats.y, IVIT_ONE);
    // The certificate bounds the product with the sigmoid to 32 bits.
    return x * bitcast<i32>(share(e, IVIT_ONE / max(sum, 1u), 24u));
}
