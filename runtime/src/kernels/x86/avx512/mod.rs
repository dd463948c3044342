//! AVX-512 with VNNI: `vpdpbusd` adds four products of `u8` and `i8` to each of sixteen `i32`.
//!
//! The products over packed weights, for dense layers and attention alike, are in [`packed_tile`].

use core::arch::x86_64::*;

pub mod attention;
pub mod linear;
pub mod rows;
pub mod windows;

/// Lanes of `i32`.
const LANES: usize = 16;
/// Rows of a tile.
const TILE_ROWS: usize = 6;

/// Rows of activations: row `r` is at `first + r * stride` and has `k` readable bytes.
#[derive(Clone, Copy)]
struct Rows {
    first: *const i8,
    stride: usize,
    k: usize,
}

/// What the four bytes of a lane are, of the weights and of the rows.
mod factors {
    /// Four `u8` and four `i8`.
    pub const WEIGHTS_UNSIGNED: bool = true;
    /// Four `i8` and four `u8`.
    pub const ROWS_UNSIGNED: bool = false;
}

impl Rows {
    /// # Safety
    /// There must be a row `row`.
    unsafe fn from(self, row: usize) -> Self {
        // SAFETY: the row exists.
        Self { first: unsafe { self.first.add(row * self.stride) }, ..self }
    }
}

/// Evaluates a call with the count of rows, 1 to [`TILE_ROWS`], as the constant `$r`.
macro_rules! with_rows {
    ($rows:expr, $r:ident => $call:expr) => {
        with_rows!(@ $rows, $r, $call, 1, 2, 3, 4, 5, 6)
    };
    (@ $rows:expr, $r:ident, $call:expr, $($count:literal),*) => {
        match $rows {
            $($count => {
                const $r: usize = $count;
                $call
            })*
            _ => {}
        }
    };
}

use with_rows;

/// `out[r][v * 16 + lane] = init[r] + sum_k w[k / 4][v][lane][k % 4] * x[r][k]`.
///
/// `F` is one of [`factors`]. `meanwhile` is called with 0 to
/// `STEPS - 1`, evenly between the products: they keep two of four vector units busy, other work that waits for none of
/// them runs beside them.
///
/// # Safety
/// `w` has `ceil(k / 4) * V` vectors, aligned to 64; `x` has `R` rows, `init` `R` values, `out` `R` rows of `V * 16`
/// values, `stride` apart.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn packed_tile<const R: usize, const V: usize, const F: bool, const STEPS: usize>(
    w: *const u8,
    x: Rows,
    init: *const i32,
    out: *mut i32,
    stride: usize,
    mut meanwhile: impl FnMut(usize),
) {
    let mut acc = [[_mm512_setzero_si512(); V]; R];
    let (quads, tail) = (x.k / 4, x.k % 4);
    // SAFETY: the caller's contract; the last quad reads only `tail` bytes of each row.
    unsafe {
        for (r, acc) in acc.iter_mut().enumerate() {
            *acc = [_mm512_set1_epi32(*init.add(r)); V];
        }
        for step in 0..STEPS {
            meanwhile(step);
            for quad in quads * step / STEPS..quads * (step + 1) / STEPS {
                let mut weights = [_mm512_setzero_si512(); V];
                for (v, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_load_si512(w.add((quad * V + v) * 64).cast());
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(x.first.add(r * x.stride + quad * 4).cast::<i32>().read_unaligned());
                    for (acc, &w) in acc.iter_mut().zip(&weights) {
                        *acc = dot::<F>(*acc, w, x);
                    }
                }
            }
        }
        if tail != 0 {
            for (r, acc) in acc.iter_mut().enumerate() {
                let bytes = _mm_maskz_loadu_epi8((1 << tail) - 1, x.first.add(r * x.stride + quads * 4));
                let x = _mm512_broadcastd_epi32(bytes);
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = dot::<F>(*acc, _mm512_load_si512(w.add((quads * V + v) * 64).cast()), x);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                _mm512_storeu_si512(out.add(r * stride + v * LANES).cast(), *acc);
            }
        }
    }
}

/// Adds the products of every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dot<const F: bool>(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
    match F {
        factors::WEIGHTS_UNSIGNED => _mm512_dpbusd_epi32(acc, w, x),
        factors::ROWS_UNSIGNED => _mm512_dpbusd_epi32(acc, x, w),
    }
}

/// Sum of the first row.
///
/// # Safety
/// There must be a row.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn row_sum(x: Rows) -> i32 {
    let ones = _mm512_set1_epi8(1);
    let mut sum = _mm512_setzero_si512();
    for at in (0..x.k).step_by(64) {
        let mask = if x.k - at >= 64 { u64::MAX } else { (1 << (x.k - at)) - 1 };
        // SAFETY: masked lanes are elements of the row.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, x.first.add(at)) };
        sum = _mm512_dpbusd_epi32(sum, ones, bytes);
    }
    _mm512_reduce_add_epi32(sum)
}

/// The sign bit of every byte: XOR turns `i8` into `u8`, 128 more.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn sign_bits() -> __m512i {
    _mm512_set1_epi8(i8::MIN)
}

/// Mask of the first `count` of sixteen lanes.
#[inline(always)]
const fn lanes(count: usize) -> __mmask16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// # Safety
/// Sixteen values can be read.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn load(values: *const i32) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_loadu_si512(values.cast()) }
}

/// Stores the lanes of a mask, saturated to 8 bits. All of them go by a plain store: a masked one of bytes or words takes
/// several times as long (Zen 4).
///
/// # Safety
/// There is room for the lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn store_i8(to: *mut i8, mask: __mmask16, values: __m512i) {
    let bytes = _mm512_cvtsepi32_epi8(values);
    // SAFETY: the caller's contract.
    unsafe { if mask == u16::MAX { _mm_storeu_si128(to.cast(), bytes) } else { _mm_mask_storeu_epi8(to, mask, bytes) } }
}

/// [`store_i8`] to 16 bits.
///
/// # Safety
/// There is room for the lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn store_i16(to: *mut i16, mask: __mmask16, values: __m512i) {
    let words = _mm512_cvtsepi32_epi16(values);
    // SAFETY: the caller's contract.
    unsafe {
        if mask == u16::MAX {
            _mm256_storeu_si256(to.cast(), words);
        } else {
            _mm256_mask_storeu_epi16(to, mask, words);
        }
    }
}

/// Factors of [`crate::arith::requant::mulhi_round`], for even and odd lanes.
#[derive(Clone, Copy)]
struct Multiplier {
    even: __m512i,
    odd: __m512i,
}

impl Multiplier {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new(values: __m512i) -> Self {
        Self { even: values, odd: _mm512_srli_epi64::<32>(values) }
    }

    /// [`crate::arith::requant::mulhi_floor`].
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn mulhi_floor(self, x: __m512i) -> __m512i {
        let even = _mm512_mul_epi32(x, self.even);
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(x), self.odd);
        Self::high_halves(even, odd)
    }

    /// [`crate::arith::requant::mulhi_round`].
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn mulhi_round(self, x: __m512i) -> __m512i {
        self.mulhi_add(x, _mm512_set1_epi64(1 << 31))
    }

    /// High halves of the products, `addend` added to each product before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn mulhi_add(self, x: __m512i, addend: __m512i) -> __m512i {
        let even = _mm512_add_epi64(_mm512_mul_epi32(x, self.even), addend);
        let odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64::<32>(x), self.odd), addend);
        Self::high_halves(even, odd)
    }

    /// High halves: those of the even lanes move down, those of the odd lanes are where they belong.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn high_halves(even: __m512i, odd: __m512i) -> __m512i {
        _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even)
    }
}

/// [`crate::arith::requant::rshift_round`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rshift_round(x: __m512i, shift: u32) -> __m512i {
    let half = if shift == 0 { 0 } else { 1 << (shift - 1) };
    _mm512_sra_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(half)), _mm_cvtsi32_si128(shift as i32))
}
