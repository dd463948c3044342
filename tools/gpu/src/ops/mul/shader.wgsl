// Product of two tensors, element by element, with broadcasting.

struct Params {
    elements: Elements,
    operands: Operands,
    zero_a: i32,
    zero_b: i32,
    acc_shift: u32,
    multiplier: i32,
    zero_point: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pair = operands(p.operands, sample, index);
    return mulhi_round(((pair.x - p.zero_a) * (pair.y - p.zero_b)) << p.acc_shift, p.multiplier) + p.zero_point;
}
