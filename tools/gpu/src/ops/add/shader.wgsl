// Sum of two tensors of different scales, with broadcasting.

struct Params {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    len: u32,
    dims: array<u32, 6>,
    a_view: Extent,
    b_view: Extent,
    ma: i32,
    mb: i32,
    bias: i32,
    shift: u32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let at = position(p.dims, index);
    let a = element(p.a, sample, view_index(p.a_view, at));
    let b = element(p.b, sample, view_index(p.b_view, at));
    return (a * p.ma + b * p.mb + p.bias) >> p.shift;
}
