// Mean along one run of dimensions: `[outer, r, inner]` to `[outer, inner]`.

struct Params {
    x: Tensor,
    out: Tensor,
    len: u32,
    outer: u32,
    r: u32,
    inner: u32,
    bias: i32,
    acc_shift: u32,
    multiplier: i32,
    zero_point: i32,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let start = (index / p.inner) * p.r * p.inner + index % p.inner;
    var sum = p.bias;
    for (var i = 0u; i < p.r; i++) {
        sum += element(p.x, sample, start + i * p.inner);
    }
    return mulhi_round(sum << p.acc_shift, p.multiplier) + p.zero_point;
}
