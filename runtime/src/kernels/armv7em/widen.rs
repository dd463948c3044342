//! Activations to 16 bits, in the order in which `SXTB16` gives the weights.
//!
//! Four values of a row become two words: values 0 and 2, values 1 and 3.

use super::ins;
use crate::kernels::ROW_BLOCK;

/// An element that can be widened.
pub trait Lane: Copy + Into<i32> {
    /// Values 0 and 2, then values 1 and 3, as halfwords.
    fn pairs(values: &[Self; 4]) -> [u32; 2];
    /// 0.
    const ZERO: Self;
}

impl Lane for i8 {
    const ZERO: Self = 0;

    #[inline(always)]
    fn pairs(values: &[Self; 4]) -> [u32; 2] {
        let word = u32::from_le_bytes(values.map(|v| v as u8));
        [ins::sxtb16(word), ins::sxtb16_odd(word)]
    }
}

impl Lane for u8 {
    const ZERO: Self = 0;

    #[inline(always)]
    fn pairs(values: &[Self; 4]) -> [u32; 2] {
        let word = u32::from_le_bytes(*values);
        [word & 0x00ff_00ff, (word >> 8) & 0x00ff_00ff]
    }
}

impl Lane for u16 {
    const ZERO: Self = 0;

    #[inline(always)]
    fn pairs(values: &[Self; 4]) -> [u32; 2] {
        let [a, b, c, d] = values.map(u32::from);
        [a | c << 16, b | d << 16]
    }
}

/// Words of one row for `steps` times four K.
pub const WORDS: usize = 2;

/// Widens a row into every `rows`-th word of `to`, from its first; what `x` lacks of `to` becomes 0.
///
/// `to` holds `2 * rows` words for four K, less what precedes this row.
#[inline(always)]
fn widen_row<X: Lane>(x: &[X], to: &mut [u32], rows: usize) {
    let (whole, tail) = x.as_chunks::<4>();
    let mut to = to.chunks_mut(WORDS * rows);
    let put = |values: &[X; 4], to: &mut [u32]| {
        let [even, odd] = X::pairs(values);
        if let Some(word) = to.first_mut() {
            *word = even;
        }
        if let Some(word) = to.get_mut(rows) {
            *word = odd;
        }
    };
    for (values, to) in whole.iter().zip(&mut to) {
        put(values, to);
    }
    let mut last = [X::ZERO; 4];
    for (last, &value) in last.iter_mut().zip(tail) {
        *last = value;
    }
    for to in to {
        put(&last, to);
        last = [X::ZERO; 4];
    }
}

/// Widens [`ROW_BLOCK`] rows of `k` values, interleaved: the even words of all rows, then the odd ones.
pub fn widen_block<X: Lane>(x: &[X], stride: usize, k: usize, to: &mut [u32]) {
    for (row, x) in x.chunks(stride.max(1)).take(ROW_BLOCK).enumerate() {
        widen_row(x.get(..k).unwrap_or(x), to.get_mut(row..).unwrap_or(&mut []), ROW_BLOCK);
    }
}

/// Widens one row.
pub fn widen_one<X: Lane>(x: &[X], to: &mut [u32]) {
    widen_row(x, to, 1);
}
