//! Tables of 16-bit values: eight entries and their successors by one gather, the line between them by one `vpmaddwd`.
//!
//! An entry and the next lie in 32 bits, `low | high << 16`. With the factors `128 - f` and `f` their sum of products is
//! `128 low + (high - low) f`: half a step added and shifted by 7 it is the rounded point of the line.

use crate::kernels::{LUT_I16_ENTRIES, portable};
use core::arch::x86_64::*;

/// [`crate::kernels::Kernels::lut_i16_in_place`].
#[target_feature(enable = "avx2")]
pub fn lut_i16_in_place(data: &mut [i16], table: &[i16; LUT_I16_ENTRIES]) {
    let (blocks, rest) = data.as_chunks_mut::<16>();
    for block in blocks {
        // SAFETY: there are sixteen values.
        let x = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
        let low = points(_mm256_castsi256_si128(x), table);
        let high = points(_mm256_extracti128_si256::<1>(x), table);
        // Packing works within halves of a register.
        let y = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
        // SAFETY: there is room for sixteen values.
        unsafe { _mm256_storeu_si256(block.as_mut_ptr().cast(), y) };
    }
    portable::lut_i16_in_place(rest, table);
}

/// The values of eight arguments.
#[inline]
#[target_feature(enable = "avx2")]
fn points(x: __m128i, table: &[i16; LUT_I16_ENTRIES]) -> __m256i {
    let at = _mm256_add_epi32(_mm256_cvtepi16_epi32(x), _mm256_set1_epi32(32768));
    let fraction = _mm256_and_si256(at, _mm256_set1_epi32(127));
    // SAFETY: the index is 511 at most; that entry and the next are the last four bytes of the table.
    let pair = unsafe { _mm256_i32gather_epi32::<2>(table.as_ptr().cast(), _mm256_srli_epi32::<7>(at)) };
    let factors =
        _mm256_or_si256(_mm256_sub_epi32(_mm256_set1_epi32(128), fraction), _mm256_slli_epi32::<16>(fraction));
    let sum = _mm256_add_epi32(_mm256_madd_epi16(pair, factors), _mm256_set1_epi32(64));
    _mm256_srai_epi32::<7>(sum)
}
