// Parameters of a product of activations, as the file has them, and what is done with its sums.

struct MatMul {
    batch: array<u32, 3>,
    m: u32,
    n: u32,
    k: u32,
    a_batch: array<u32, 3>,
    a_row: u32,
    b_batch: array<u32, 3>,
    b_row: u32,
    b_transposed: u32,
    acc_shift: u32,
    multiplier: i32,
    zero_point: i32,
}

// Maximum value of a 16-bit `a`; greater ones count as this one.
const MAX_PROBABILITY: i32 = 32767;

// The first elements of the matrices number `index` of the batch: x that of `a`, y that of `b`.
fn matrices(m: MatMul, index: u32) -> vec2<u32> {
    let outer = index / m.batch[2];
    let i2 = index - outer * m.batch[2];
    let i0 = outer / m.batch[1];
    let i1 = outer - i0 * m.batch[1];
    let a = i0 * m.a_batch[0] + i1 * m.a_batch[1] + i2 * m.a_batch[2];
    return vec2(a, i0 * m.b_batch[0] + i1 * m.b_batch[1] + i2 * m.b_batch[2]);
}

// Mask of the bytes of word `word_of_k` that lie below K.
fn tail_mask(m: MatMul, word_of_k: u32) -> u32 {
    let first = 4u * word_of_k;
    let left = m.k - min(m.k, first);
    return select((1u << (8u * (left & 3u))) - 1u, 0xffffffffu, left >= 4u);
}

fn requantized(m: MatMul, dtype: u32, acc: i32) -> i32 {
    if dtype == I32 {
        return acc;
    }
    let y = mulhi_round(acc << m.acc_shift, m.multiplier);
    return select(y, y + m.zero_point, dtype == I8);
}
