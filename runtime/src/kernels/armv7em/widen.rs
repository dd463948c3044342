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

/// Words that `steps` times four K of `ROWS` rows take.
const fn words(steps: usize, rows: usize) -> usize {
    steps * 2 * rows
}

/// Widens row `row` of `ROWS` interleaved ones into `to`: the even words of all rows, then the odd ones, for every four
/// K; what `x` lacks of `to` becomes 0.
#[inline(always)]
fn widen_row<X: Lane, const ROWS: usize>(x: &[X], row: usize, to: &mut [u32]) {
    let (steps, _) = to.as_chunks_mut::<ROWS>().0.as_chunks_mut::<2>();
    if row >= ROWS {
        return;
    }
    let put = |values: &[X; 4], [even, odd]: &mut [[u32; ROWS]; 2]| {
        let pairs = X::pairs(values);
        // SAFETY: `row < ROWS`.
        unsafe { [*even.get_unchecked_mut(row), *odd.get_unchecked_mut(row)] = pairs };
    };
    let (whole, tail) = x.as_chunks::<4>();
    let (body, rest) = steps.split_at_mut(whole.len().min(steps.len()));
    let (whole_groups, whole) = whole.as_chunks::<4>();
    let (body_groups, body) = body.as_chunks_mut::<4>();
    for (values, steps) in whole_groups.iter().zip(body_groups) {
        for (values, step) in values.iter().zip(steps) {
            put(values, step);
        }
    }
    for (values, step) in whole.iter().zip(body) {
        put(values, step);
    }
    if rest.is_empty() {
        return;
    }
    let mut last = [X::ZERO; 4];
    for (last, &value) in last.iter_mut().zip(tail) {
        *last = value;
    }
    for step in rest {
        put(&last, step);
        last = [X::ZERO; 4];
    }
}

/// Widens [`ROW_BLOCK`] rows of `k` values, interleaved, padded with zeros to `steps` times four K.
pub fn widen_block<X: Lane>(x: &[X], stride: usize, k: usize, steps: usize, to: &mut [u32]) {
    let to = to.get_mut(..words(steps, ROW_BLOCK)).unwrap_or(&mut []);
    for (row, x) in x.chunks(stride.max(1)).take(ROW_BLOCK).enumerate() {
        widen_row::<X, ROW_BLOCK>(x.get(..k).unwrap_or(x), row, to);
    }
}

/// Widens one row, padded with zeros to `steps` times four K.
pub fn widen_one<X: Lane>(x: &[X], steps: usize, to: &mut [u32]) {
    widen_row::<X, 1>(x, 0, to.get_mut(..words(steps, 1)).unwrap_or(&mut []));
}
