// Sum of two tensors of different scales, with broadcasting.

struct Params {
    elements: Elements,
    operands: Operands,
    ma: i32,
    mb: i32,
    bias: i32,
    shift: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let pair = operands(p.operands, sample, index);
    return (pair.x * p.ma + pair.y * p.mb + p.bias) >> p.shift;
}
