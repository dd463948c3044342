// Mean along one run of dimensions: `[outer, r, inner]` to `[outer, inner]`, or the sums of parts of the run to
// `[outer, parts, inner] i32`.

struct Params {
    elements: Elements,
    x: Tensor,
    // Parts of the run, and elements of all parts but the last.
    parts: u32,
    part: u32,
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
    let row = index / p.inner;
    let outer = row / p.parts;
    let first = (row - outer * p.parts) * p.part;
    let start = (outer * p.r + first) * p.inner + index - row * p.inner;
    var sum = 0i;
    for (var i = 0u; i < min(p.part, p.r - first); i++) {
        sum += element(p.x, sample, start + i * p.inner);
    }
    if p.elements.out.dtype == I32 {
        return sum;
    }
    return mulhi_round((sum + p.bias) << p.acc_shift, p.multiplier) + p.zero_point;
}
