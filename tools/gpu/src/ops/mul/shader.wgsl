// Product of two tensors, element by element, with broadcasting.

struct Params {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    len: u32,
    dims: array<u32, 6>,
    a_view: Extent,
    b_view: Extent,
    zero_a: i32,
    zero_b: i32,
    acc_shift: u32,
    multiplier: i32,
    zero_point: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let at = position(p.dims, index);
    let a = element(p.a, sample, view_index(p.a_view, at)) - p.zero_a;
    let b = element(p.b, sample, view_index(p.b_view, at)) - p.zero_b;
    return mulhi_round((a * b) << p.acc_shift, p.multiplier) + p.zero_point;
}
