// Product of two activations for every matrix of a batch of three dimensions, element by element.

struct Params {
    elements: Elements,
    a: Tensor,
    b: Tensor,
    m: MatMul,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let row = index / p.m.n;
    let column = index - row * p.m.n;
    let matrix = row / p.m.m;
    let start = matrices(p.m, matrix);
    let a = start.x + (row - matrix * p.m.m) * p.m.a_row;
    let transposed = p.m.b_transposed != 0u;
    let b = start.y + select(column, column * p.m.b_row, transposed);
    let step = select(p.m.b_row, 1u, transposed);
    var acc = 0i;
    for (var i = 0u; i < p.m.k; i++) {
        acc += min(element(p.a, sample, a + i), MAX_PROBABILITY) * element_i8(p.b, sample, b + i * step);
    }
    return requantized(p.m, p.elements.out.dtype, acc);
}
