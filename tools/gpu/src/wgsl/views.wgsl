// Strided views of up to six dimensions, as the file has them.

struct Extent {
    offset: u32,
    strides: array<i32, 6>,
}

// The index of an element along each dimension, innermost last.
fn position(dims: array<u32, 6>, index: u32) -> array<u32, 6> {
    var at: array<u32, 6>;
    var rest = index;
    for (var axis = 5u; axis > 0u; axis--) {
        let outer = rest / dims[axis];
        at[axis] = rest - outer * dims[axis];
        rest = outer;
    }
    at[0] = rest;
    return at;
}

fn view_index(view: Extent, at: array<u32, 6>) -> u32 {
    var index = bitcast<i32>(view.offset);
    for (var axis = 0u; axis < 6u; axis++) {
        index += view.strides[axis] * bitcast<i32>(at[axis]);
    }
    return bitcast<u32>(index);
}
