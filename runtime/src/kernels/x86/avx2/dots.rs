//! Dot products of rows with rows: both factors as `i16`, `vpmaddwd` and an addition, for all element types alike.
//!
//! Tiles of 2 rows x 4 columns: 8 accumulators, 2 registers of `x`, 1 of `y`. Per 16 of K: 8 `vpmaddwd`, 8 additions and 6
//! widening loads for 128 MACs. 16-bit exponentials stay below 2^15 and are loaded as they are, so that they take no more
//! than 8-bit ones.

use crate::kernels::{DotJob, whole_rows};
use core::arch::x86_64::*;

/// Elements of K at a time.
const STEP: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 4;

/// What `x` consists of.
pub mod element {
    /// `i8`.
    pub const I8: u8 = 0;
    /// `u8`.
    pub const U8: u8 = 1;
    /// `u16` below 2^15.
    pub const U16: u8 = 2;
}

/// From element `rest` on: a mask of the last `rest` of sixteen.
static LAST: [i16; 2 * STEP] = {
    let mut masks = [0; 2 * STEP];
    let mut at = STEP;
    while at < masks.len() {
        masks[at] = -1;
        at += 1;
    }
    masks
};

/// Bytes of an element.
const fn bytes(element: u8) -> usize {
    if element == element::U16 { 2 } else { 1 }
}

/// Dot products of `x`, whose elements are `E`. `false` where the slices do not hold the job: nothing was written.
#[target_feature(enable = "avx2")]
pub fn dots<const E: u8>(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32]) -> bool {
    let fits = whole_rows(x.len() / bytes(E), job.x_stride, job.k) >= job.rows
        && whole_rows(y.len(), job.y_stride, job.k) >= job.cols
        && whole_rows(out.len(), job.out_stride, job.cols) >= job.rows;
    if !fits {
        return false;
    }
    for row in (0..job.rows).step_by(2) {
        // SAFETY: the slices hold the rows and columns of the job.
        unsafe {
            let x = x.as_ptr().add(row * job.x_stride * bytes(E));
            let out = out.as_mut_ptr().add(row * job.out_stride);
            if job.rows - row >= 2 { columns::<E, 2>(job, x, y, out) } else { columns::<E, 1>(job, x, y, out) }
        }
    }
    true
}

/// `R` rows by all columns.
///
/// # Safety
/// The addresses hold them.
#[target_feature(enable = "avx2")]
unsafe fn columns<const E: u8, const R: usize>(job: &DotJob, x: *const u8, y: &[i8], out: *mut i32) {
    let mut column = 0;
    // SAFETY: the caller's contract.
    unsafe {
        while column + COLUMNS <= job.cols {
            tile::<E, R, COLUMNS>(job, x, y.as_ptr().add(column * job.y_stride), out.add(column));
            column += COLUMNS;
        }
        while column < job.cols {
            tile::<E, R, 1>(job, x, y.as_ptr().add(column * job.y_stride), out.add(column));
            column += 1;
        }
    }
}

/// `R` rows by `C` columns.
///
/// # Safety
/// The addresses hold them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<const E: u8, const R: usize, const C: usize>(job: &DotJob, x: *const u8, y: *const i8, out: *mut i32) {
    let mut acc = [[_mm256_setzero_si256(); C]; R];
    let whole = job.k / STEP * STEP;
    // SAFETY: the caller's contract; a row has sixteen elements where `whole` is not 0.
    unsafe {
        for k in (0..whole).step_by(STEP) {
            let mut xs = [_mm256_setzero_si256(); R];
            for (row, to) in xs.iter_mut().enumerate() {
                *to = widen::<E>(x.add((row * job.x_stride + k) * bytes(E)));
            }
            for column in 0..C {
                let y = widen::<{ element::I8 }>(y.add(column * job.y_stride + k).cast());
                for (acc, &x) in acc.iter_mut().zip(&xs) {
                    acc[column] = _mm256_add_epi32(acc[column], _mm256_madd_epi16(x, y));
                }
            }
        }
        if whole < job.k {
            // The last sixteen elements once more, those before `whole` as zeros; of shorter rows a copy.
            let rest = job.k - whole;
            let last = |at: *const u8, size: usize| {
                if whole > 0 { at.add((job.k - STEP) * size) } else { at }
            };
            let mask = _mm256_loadu_si256(LAST.as_ptr().add(rest).cast());
            let mut xs = [_mm256_setzero_si256(); R];
            for (row, to) in xs.iter_mut().enumerate() {
                let x = last(x.add(row * job.x_stride * bytes(E)), bytes(E));
                *to = if whole > 0 { _mm256_and_si256(widen::<E>(x), mask) } else { widen_some::<E>(x, rest) };
            }
            for column in 0..C {
                let y = last(y.add(column * job.y_stride).cast(), 1);
                let y = if whole > 0 { widen::<{ element::I8 }>(y) } else { widen_some::<{ element::I8 }>(y, rest) };
                for (acc, &x) in acc.iter_mut().zip(&xs) {
                    acc[column] = _mm256_add_epi32(acc[column], _mm256_madd_epi16(x, y));
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            let out = out.add(row * job.out_stride);
            if let [a, b, c, d] = acc[..] {
                let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
                _mm_storeu_si128(out.cast(), halves(sums));
            } else {
                for (column, &acc) in acc.iter().enumerate() {
                    let sums = _mm256_hadd_epi32(acc, acc);
                    *out.add(column) = _mm_cvtsi128_si32(halves(_mm256_hadd_epi32(sums, sums)));
                }
            }
        }
    }
}

/// The sum of the halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(x: __m256i) -> __m128i {
    _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

/// Sixteen elements as `i16`.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen<const E: u8>(from: *const u8) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        match E {
            element::I8 => _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())),
            element::U8 => _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast())),
            _ => _mm256_loadu_si256(from.cast()),
        }
    }
}

/// `count` elements as `i16`, then zeros.
///
/// # Safety
/// They can be read; there are fewer than sixteen.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_some<const E: u8>(from: *const u8, count: usize) -> __m256i {
    let mut elements = [0u8; 2 * STEP];
    // SAFETY: the caller's contract.
    unsafe {
        core::ptr::copy_nonoverlapping(from, elements.as_mut_ptr(), count * bytes(E));
        widen::<E>(elements.as_ptr())
    }
}
