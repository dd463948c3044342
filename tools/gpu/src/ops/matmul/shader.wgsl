// Product of two activations for every matrix of a batch of three dimensions.

struct Params {
    a: Tensor,
    b: Tensor,
    out: Tensor,
    len: u32,
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
@group(0) @binding(2) var<storage, read> p: Params;

// Mask of the bytes of word `word_of_k` that lie below K.
fn tail_mask(word_of_k: u32) -> u32 {
    let left = p.k - 4u * word_of_k;
    return select((1u << (8u * (left & 3u))) - 1u, 0xffffffffu, left >= 4u);
}

fn dot_rows(sample: u32, a: u32, b: u32) -> i32 {
    var acc = 0i;
    for (var i = 0u; i < ((p.k + 3u) >> 2u); i++) {
        let x = bytes4(p.a, sample, a + 4u * i) & tail_mask(i);
        acc += dot4I8Packed(x, bytes4(p.b, sample, b + 4u * i));
    }
    return acc;
}

fn dot_strided(sample: u32, a: u32, b: u32, b_step: u32) -> i32 {
    var acc = 0i;
    for (var i = 0u; i < p.k; i++) {
        acc += element(p.a, sample, a + i) * element_i8(p.b, sample, b + i * b_step);
    }
    return acc;
}

fn value(sample: u32, index: u32) -> i32 {
    let column = index % p.n;
    let row = (index / p.n) % p.m;
    let matrix = index / p.n / p.m;
    let i2 = matrix % p.batch[2];
    let i1 = (matrix / p.batch[2]) % p.batch[1];
    let i0 = matrix / p.batch[2] / p.batch[1];
    let a = i0 * p.a_batch[0] + i1 * p.a_batch[1] + i2 * p.a_batch[2] + row * p.a_row;
    let b = i0 * p.b_batch[0] + i1 * p.b_batch[1] + i2 * p.b_batch[2];
    var acc = 0i;
    if p.b_transposed == 0u {
        acc = dot_strided(sample, a, b + column, p.b_row);
    } else if p.a.dtype == I8 {
        acc = dot_rows(sample, a, b + column * p.b_row);
    } else {
        acc = dot_strided(sample, a, b + column * p.b_row, 1u);
    }
    if p.out.dtype == I32 {
        return acc;
    }
    let y = mulhi_round(acc << p.acc_shift, p.multiplier);
    return select(y, y + p.zero_point, p.out.dtype == I8);
}
