// ShiftGELU: `x * sigmoid(1.702 x)` with a sigmoid of 8 bits that is scaled by the row's maximum.

struct Params {
    x: Tensor,
    row_max: Tensor,
    out: Tensor,
    len: u32,
    rows: u32,
    n: u32,
    period: u32,
    halvings: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let x = element(p.x, sample, index);
    let largest = bitcast<i32>(word(p.row_max, sample, index / p.n));
    let e = shift_exp(p.period, p.halvings, x - largest);
    let at_zero = shift_exp(p.period, p.halvings, -largest);
    let sum = min(clamped_to_one(e) + clamped_to_one(at_zero), IVIT_ONE);
    // The certificate bounds the product with the sigmoid to 32 bits.
    return x * bitcast<i32>(share(e, IVIT_ONE / max(sum, 1u), 24u));
}
