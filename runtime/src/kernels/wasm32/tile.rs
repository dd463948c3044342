//! Two rows by four columns of products, of signed bytes and of exponentials with signed bytes.
//!
//! Both factors are widened to `i16`, `i32x4.dot_i16x8_s` adds pairs of products in 32 bits: exact. Per 16 of K, for 128
//! MACs: 6 loads, 12 extensions, 16 products, 16 additions. On x86 a product is one `pmaddwd`, on Arm two `smull` and an
//! `addp`. 8 sums, 4 halves of rows and 2 of a column fit 16 registers.

use crate::kernels::{GROUP, PANEL};
use core::arch::wasm32::*;

/// Rows of a tile.
pub const ROWS: usize = 2;
/// Columns of a tile.
pub const COLUMNS: usize = 4;

/// What the rows of a tile are made of.
pub trait Element: Copy + Default {
    /// A group from `x` on, in 16 bits.
    ///
    /// # Safety
    /// `x` has the group.
    unsafe fn group(x: *const Self) -> [v128; 2];
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn group(x: *const Self) -> [v128; 2] {
        // SAFETY: the caller's contract.
        let x = unsafe { v128_load(x.cast()) };
        [i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x)]
    }
}

impl Element for u8 {
    #[inline(always)]
    unsafe fn group(x: *const Self) -> [v128; 2] {
        // SAFETY: the caller's contract.
        let x = unsafe { v128_load(x.cast()) };
        [u16x8_extend_low_u8x16(x), u16x8_extend_high_u8x16(x)]
    }
}

/// Exponentials: below 2^15, so that they are signed numbers too.
impl Element for u16 {
    #[inline(always)]
    unsafe fn group(x: *const Self) -> [v128; 2] {
        // SAFETY: the caller's contract.
        unsafe { [v128_load(x.cast()), v128_load(x.add(8).cast())] }
    }
}

/// Rows and columns.
#[derive(Clone, Copy)]
pub struct Tile<X> {
    rows: [*const X; ROWS],
    columns: [*const i8; COLUMNS],
    /// Bytes from a group of a column to the next.
    step: usize,
    /// Whether columns go on to the end of a group, with zeros.
    padded: bool,
}

impl<X: Element> Tile<X> {
    /// Rows and the channels of a packed panel.
    pub fn of_panel(rows: [*const X; ROWS], panel: &[u8]) -> Self {
        let columns = [0, 1, 2, 3].map(|channel| panel.as_ptr().cast::<i8>().wrapping_add(channel * GROUP));
        Self { rows, columns, step: PANEL * GROUP, padded: true }
    }

    /// Rows and rows.
    pub fn of_columns(rows: [*const X; ROWS], columns: [*const i8; COLUMNS]) -> Self {
        Self { rows, columns, step: GROUP, padded: false }
    }

    /// For each row the sums over `k` elements with the four columns.
    ///
    /// # Safety
    /// Rows and columns have `k` elements.
    #[inline(always)]
    pub unsafe fn sums(&self, k: usize) -> [v128; ROWS] {
        let mut sums = [[i32x4_splat(0); COLUMNS]; ROWS];
        let (groups, left) = (k / GROUP, k % GROUP);
        // SAFETY: the caller's contract; what is left of a group is copied where it is not padded.
        unsafe {
            for group in 0..groups {
                let rows = self.rows.map(|row| row.add(group * GROUP));
                add_group(&mut sums, rows, self.columns.map(|column| column.add(group * self.step)));
            }
            if left > 0 {
                let rows = self.rows.map(|row| rest(row.add(groups * GROUP), left));
                let columns = self
                    .columns
                    .map(|column| rest(column.add(groups * self.step), if self.padded { GROUP } else { left }));
                add_group(&mut sums, [0, 1].map(|row| rows[row].as_ptr()), [0, 1, 2, 3].map(|c| columns[c].as_ptr()));
            }
        }
        sums.map(across)
    }
}

/// The first `count` elements of a group, then zeros.
///
/// # Safety
/// `from` has them.
#[inline(always)]
unsafe fn rest<T: Copy + Default>(from: *const T, count: usize) -> [T; GROUP] {
    let mut group = [T::default(); GROUP];
    // SAFETY: the caller's contract; a group has no more than `GROUP`.
    unsafe { core::ptr::copy_nonoverlapping(from, group.as_mut_ptr(), count.min(GROUP)) };
    group
}

/// Adds the products of a group.
///
/// # Safety
/// Rows and columns have the group.
#[inline(always)]
unsafe fn add_group<X: Element>(
    sums: &mut [[v128; COLUMNS]; ROWS],
    rows: [*const X; ROWS],
    columns: [*const i8; COLUMNS],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let rows = rows.map(|row| X::group(row));
        for (index, column) in columns.into_iter().enumerate() {
            let [low, high] = i8::group(column);
            for (sums, [x_low, x_high]) in sums.iter_mut().zip(rows) {
                sums[index] = i32x4_add(sums[index], i32x4_dot_i16x8(x_low, low));
                sums[index] = i32x4_add(sums[index], i32x4_dot_i16x8(x_high, high));
            }
        }
    }
}

/// Lane `i` is the sum of the lanes of vector `i`.
#[inline(always)]
fn across([a, b, c, d]: [v128; COLUMNS]) -> v128 {
    let pair = |a, b| i32x4_add(i32x4_shuffle::<0, 4, 2, 6>(a, b), i32x4_shuffle::<1, 5, 3, 7>(a, b));
    let (ab, cd) = (pair(a, b), pair(c, d));
    i32x4_add(i32x4_shuffle::<0, 1, 4, 5>(ab, cd), i32x4_shuffle::<2, 3, 6, 7>(ab, cd))
}
