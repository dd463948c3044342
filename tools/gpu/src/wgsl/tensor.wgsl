// What shaders are told of a tensor.

// Element type codes of the file format.
const I8: u32 = 0u;
const U8: u32 = 1u;
const I16: u32 = 2u;
const U16: u32 = 3u;
const I32: u32 = 4u;

// `base` is in words into `data`, or into `weights` where `constant` is 1; a sample takes `stride` words.
// An absent optional operand has `constant` 2.
struct Tensor {
    base: u32,
    stride: u32,
    dtype: u32,
    constant: u32,
}

fn present(t: Tensor) -> bool {
    return t.constant < 2u;
}

fn elements_per_word(dtype: u32) -> u32 {
    return select(select(4u, 2u, dtype >= I16), 1u, dtype == I32);
}
