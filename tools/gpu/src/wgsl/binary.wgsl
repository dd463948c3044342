// Parameters of operators on two tensors with broadcasting, and the element of each that meets output element `index`.

struct Operands {
    a: Tensor,
    b: Tensor,
    dims: array<u32, 6>,
    a_view: Extent,
    b_view: Extent,
}

fn operands(o: Operands, sample: u32, index: u32) -> vec2<i32> {
    let at = position(o.dims, index);
    return vec2(
        element(o.a, sample, view_index(o.a_view, at)),
        element(o.b, sample, view_index(o.b_view, at)),
    );
}
