// Product of a 16-bit and an 8-bit activation, by the halves of the former.

struct Params {
    elements: Elements,
    a: Tensor,
    b: Tensor,
    m: MatMul,
    drop: u32,
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
    var high = 0i;
    var low = 0i;
    for (var i = 0u; i < p.m.k; i++) {
        let x = element_i16(p.a, sample, a + i);
        let y = element_i8(p.b, sample, b + i * step);
        high += high_half(x) * y;
        low += low_half(x) * y;
    }
    let acc = (high << (8u - p.drop)) + rshift_round(low, p.drop);
    return requantized(p.m, p.elements.out.dtype, acc);
}
