//! Dense layers of many rows: rows packed once for all channels, weights once for all rows, tiles of sums by an
//! [`Engine`], requantized in registers.
//!
//! Packing four rows of sixteen elements takes four loads and one ST4 (SDOT) or four ZIP and four stores (SMMLA, weights as
//! well). Requantization of eight channels of a row: `mulhi_round(a, b) = (2ab >> 32 + 1) >> 1`, so SQDMULH and a rounding
//! narrowing shift by one give 16 bits; with the zero point and 8 bits 2 SQDMULH, 2 SQRSHRN, SQADD, SQXTN, STR.

use super::engine::{At, COLUMNS, Engine, QUAD, ROWS, Source, Tile, pack};
use super::tiles::{Sink, weights};
use crate::kernels::{GROUP, LinearJob, PANEL, WeightFormat};
use core::arch::aarch64::*;
use core::mem::MaybeUninit;

/// Bytes of packed rows on the stack.
const ROW_BYTES: usize = 96 * 1024;
/// Longest rows that are packed.
const MAX_K: usize = 4096;
/// Fewest rows for which packing pays.
const FROM_ROWS: usize = 12;
/// Maximum magnitude of a zero point that 16 bits beside a saturated sum can hold.
const MAX_ZERO_POINT: u32 = 32640;

/// Packed rows and a block of packed weights.
#[repr(align(64))]
struct Memory {
    rows: MaybeUninit<[i8; ROW_BYTES]>,
    columns: MaybeUninit<[i8; COLUMNS * MAX_K]>,
}

/// Whether [`dense`] takes the job.
pub fn takes(job: &LinearJob<'_>) -> bool {
    job.rows >= FROM_ROWS && job.k <= MAX_K && job.zero_point.unsigned_abs() <= MAX_ZERO_POINT
}

/// A dense layer; returns the rows and channels written.
///
/// # Safety
/// The processor has the instructions of `E`; the sink has `len` elements; [`takes`].
pub unsafe fn dense<E: Engine>(job: &LinearJob<'_>, x: &[i8], sink: Sink, len: usize) -> (usize, usize) {
    let (rows, n) = job.fit(x.len(), len);
    let groups = job.k.div_ceil(GROUP);
    // At least two tiles of the longest rows.
    let most = ROW_BYTES / (groups.max(1) * GROUP) / ROWS * ROWS;
    let chunk = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(ROWS);
    for first in (0..rows).step_by(chunk.max(1)) {
        let count = (rows - first).min(chunk);
        // SAFETY: `fit` counts only rows and channels that `x`, the sink and the weights hold.
        unsafe {
            let from = Source::rows(x.as_ptr().add(first * job.x_stride), job.x_stride, job.k, count);
            match (sink, job.acc_shift) {
                (Sink::I8(out), 0) => chunk_of::<E, _>(job, n, from, first, ToI8::<false>(out)),
                (Sink::I8(out), _) => chunk_of::<E, _>(job, n, from, first, ToI8::<true>(out)),
                (Sink::I16(out), 0) => chunk_of::<E, _>(job, n, from, first, ToI16::<false>(out)),
                (Sink::I16(out), _) => chunk_of::<E, _>(job, n, from, first, ToI16::<true>(out)),
                (Sink::Residual(out, shift), 0) => chunk_of::<E, _>(job, n, from, first, ToSum::<false>(out, shift)),
                (Sink::Residual(out, shift), _) => chunk_of::<E, _>(job, n, from, first, ToSum::<true>(out, shift)),
                (Sink::Acc(out), _) => chunk_of::<E, _>(job, n, from, first, ToI32(out)),
            }
        }
    }
    (rows, n)
}

/// Rows from `first` on, which `from` holds, by `n` channels.
///
/// # Safety
/// As for [`dense`]; rows, weights and sink hold what is counted.
#[inline(never)]
unsafe fn chunk_of<E: Engine, S: Store>(job: &LinearJob<'_>, n: usize, from: Source, first: usize, store: S) {
    let mut memory = Memory { rows: MaybeUninit::uninit(), columns: MaybeUninit::uninit() };
    let (rows, columns): (*mut i8, *mut i8) = (memory.rows.as_mut_ptr().cast(), memory.columns.as_mut_ptr().cast());
    let groups = job.k.div_ceil(GROUP);
    // SAFETY: the caller's contract; a chunk has at most `ROW_BYTES` of packed rows, a block at most `MAX_K` groups.
    unsafe {
        for row in (0..from.count).step_by(ROWS) {
            let (tile, rest) = (rows.add(row * groups * GROUP), from.count - row);
            let from = Source { first: from.first.add(row * from.row), count: rest.min(ROWS), ..from };
            pack::<E>(from, tile_rows(rest), tile);
        }
        for channel in (0..n).step_by(COLUMNS) {
            let exact = pack_weights::<E>(job, channel, n, columns);
            let scale = Scale::new(job, channel, n);
            for row in (0..from.count).step_by(ROWS) {
                let (a, rest) = (rows.add(row * groups * GROUP), from.count - row);
                let at = (first + row) * job.out_stride + channel;
                match tile_rows(rest) {
                    ROWS => finish(E::twelve(a, columns, groups, exact, scale.bias), rest, &scale, at, job, store),
                    8 => finish(E::eight(a, columns, groups, exact, scale.bias), rest, &scale, at, job, store),
                    _ => finish(E::four(a, columns, groups, exact, scale.bias), rest, &scale, at, job, store),
                }
            }
        }
    }
}

/// Rows of the tile that takes the first of `rest` rows.
pub fn tile_rows(rest: usize) -> usize {
    rest.next_multiple_of(QUAD).min(ROWS)
}

/// Packs the weights of the block of channels from `channel` on; whether one is -128, where that makes a difference.
///
/// # Safety
/// The weights hold `n` channels; `to` has room for a block.
#[inline(always)]
unsafe fn pack_weights<E: Engine>(job: &LinearJob<'_>, channel: usize, n: usize, to: *mut i8) -> bool {
    let panel_bytes = job.weights.format.panel_bytes(job.k);
    let groups = job.k.div_ceil(GROUP);
    let panels = (n - channel).div_ceil(PANEL).min(COLUMNS / PANEL);
    // SAFETY: the caller's contract.
    unsafe {
        let first = job.weights.bytes.as_ptr().add(channel / PANEL * panel_bytes);
        match job.weights.format {
            WeightFormat::I8 => {
                let (k, count) = (groups * GROUP, panels * PANEL);
                let from =
                    Source { first: first.cast(), row: GROUP, quad: panel_bytes, group: PANEL * GROUP, count, k };
                pack::<E>(from, COLUMNS, to)
            }
            WeightFormat::I4 => put_panels::<E, 4>(first, panel_bytes, [panels, groups], to),
            WeightFormat::I3 => put_panels::<E, 3>(first, panel_bytes, [panels, groups], to),
            WeightFormat::I2 => put_panels::<E, 2>(first, panel_bytes, [panels, groups], to),
        }
    }
}

/// Packs a block of `[panels, groups]` of weights of fewer than 8 bits: none is -128.
///
/// # Safety
/// The panels hold the groups; `to` has room for a block.
#[inline(always)]
unsafe fn put_panels<E: Engine, const BITS: u32>(
    first: *const u8,
    panel_bytes: usize,
    [panels, groups]: [usize; 2],
    to: *mut i8,
) -> bool {
    for quad in 0..COLUMNS / PANEL {
        for group in 0..groups {
            let at = At { row: quad * PANEL, rows: COLUMNS, group, groups };
            // SAFETY: the caller's contract.
            unsafe {
                let panel = first.add(quad.min(panels - 1) * panel_bytes);
                E::put(to, [0, 1, 2, 3].map(|channel| weights::<BITS>(panel, group, channel)), at);
            }
        }
    }
    false
}

/// Bias and requantization of a block of channels.
struct Scale {
    bias: [int32x4_t; 2],
    multipliers: [int32x4_t; 2],
    acc_shift: int32x4_t,
    zero_point: int16x8_t,
    /// Channels that exist.
    count: usize,
}

impl Scale {
    fn new(job: &LinearJob<'_>, channel: usize, n: usize) -> Self {
        let lanes = |values: &[i32], panel: usize| {
            let lanes = values.as_chunks::<PANEL>().0.get(panel).copied().unwrap_or_default();
            // SAFETY: four values.
            unsafe { vld1q_s32(lanes.as_ptr()) }
        };
        let block = |values: &[i32]| [0, 1].map(|half| lanes(values, channel / PANEL + half));
        // SAFETY: NEON is in every AArch64.
        let (acc_shift, zero_point) =
            unsafe { (vdupq_n_s32(job.acc_shift as i32), vdupq_n_s16(job.zero_point as i16)) };
        let count = (n - channel).min(COLUMNS);
        Self { bias: block(job.bias), multipliers: block(job.multipliers), acc_shift, zero_point, count }
    }

    /// `2ab >> 32`: twice the product's high half, to be rounded by one more bit.
    #[inline(always)]
    fn doubled<const SHIFTED: bool>(&self, sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
        let [a, b] = sums;
        let [m, n] = self.multipliers;
        // SAFETY: NEON is in every AArch64.
        unsafe {
            if SHIFTED {
                return [vqdmulhq_s32(vshlq_s32(a, self.acc_shift), m), vqdmulhq_s32(vshlq_s32(b, self.acc_shift), n)];
            }
            [vqdmulhq_s32(a, m), vqdmulhq_s32(b, n)]
        }
    }
}

/// Half of what [`Scale::doubled`] gives, rounded and saturated to 16 bits.
#[inline(always)]
fn halved([a, b]: [int32x4_t; 2]) -> int16x8_t {
    // SAFETY: NEON is in every AArch64.
    unsafe { vqrshrn_high_n_s32::<1>(vqrshrn_n_s32::<1>(a), b) }
}

/// Where the sums of a row go.
trait Store: Copy {
    type Element: Copy + Default;

    /// The first element of the output.
    fn out(self) -> *mut Self::Element;

    /// Stores eight sums.
    ///
    /// # Safety
    /// `to` has eight elements.
    unsafe fn store(self, sums: [int32x4_t; 2], scale: &Scale, to: *mut Self::Element);
}

/// `sat8(zero_point + requantized)`.
#[derive(Clone, Copy)]
struct ToI8<const SHIFTED: bool>(*mut i8);

impl<const SHIFTED: bool> Store for ToI8<SHIFTED> {
    type Element = i8;

    fn out(self) -> *mut i8 {
        self.0
    }

    #[inline(always)]
    unsafe fn store(self, sums: [int32x4_t; 2], scale: &Scale, to: *mut i8) {
        // SAFETY: the caller's contract. The zero point is small enough that saturation to 16 bits before it is added
        // makes no difference.
        unsafe { vst1_s8(to, vqmovn_s16(vqaddq_s16(halved(scale.doubled::<SHIFTED>(sums)), scale.zero_point))) }
    }
}

/// `sat16(requantized)`.
#[derive(Clone, Copy)]
struct ToI16<const SHIFTED: bool>(*mut i16);

impl<const SHIFTED: bool> Store for ToI16<SHIFTED> {
    type Element = i16;

    fn out(self) -> *mut i16 {
        self.0
    }

    #[inline(always)]
    unsafe fn store(self, sums: [int32x4_t; 2], scale: &Scale, to: *mut i16) {
        // SAFETY: the caller's contract.
        unsafe { vst1q_s16(to, halved(scale.doubled::<SHIFTED>(sums))) }
    }
}

/// `sat16(requantized + rshift_round(residual))`, the residual where the result goes, with its shift.
#[derive(Clone, Copy)]
struct ToSum<const SHIFTED: bool>(*mut i16, u32);

impl<const SHIFTED: bool> Store for ToSum<SHIFTED> {
    type Element = i16;

    fn out(self) -> *mut i16 {
        self.0
    }

    #[inline(always)]
    unsafe fn store(self, sums: [int32x4_t; 2], scale: &Scale, to: *mut i16) {
        // SAFETY: the caller's contract.
        unsafe {
            let [a, b] = scale.doubled::<SHIFTED>(sums);
            // A rounding shift left by a negative count is `rshift_round`.
            let (residual, shift) = (vld1q_s16(to), vdupq_n_s32(-(self.1 as i32)));
            let low = vrshlq_s32(vmovl_s16(vget_low_s16(residual)), shift);
            let high = vrshlq_s32(vmovl_high_s16(residual), shift);
            let low = vqmovn_s32(vrsraq_n_s32::<1>(low, a));
            vst1q_s16(to, vqmovn_high_s32(low, vrsraq_n_s32::<1>(high, b)));
        }
    }
}

/// The sums themselves.
#[derive(Clone, Copy)]
struct ToI32(*mut i32);

impl Store for ToI32 {
    type Element = i32;

    fn out(self) -> *mut i32 {
        self.0
    }

    #[inline(always)]
    unsafe fn store(self, [a, b]: [int32x4_t; 2], _scale: &Scale, to: *mut i32) {
        // SAFETY: the caller's contract.
        unsafe {
            vst1q_s32(to, a);
            vst1q_s32(to.add(PANEL), b);
        }
    }
}

/// Stores the rows of a tile that exist, `rest` at most; the first starts at element `at` of the output.
///
/// # Safety
/// The output has these elements.
#[inline(always)]
unsafe fn finish<const R: usize, S: Store>(
    tile: Tile<R>,
    rest: usize,
    scale: &Scale,
    at: usize,
    job: &LinearJob<'_>,
    store: S,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let out = store.out().add(at);
        if rest >= R && scale.count == COLUMNS {
            for (row, sums) in tile.into_iter().enumerate() {
                store.store(sums, scale, out.add(row * job.out_stride));
            }
            return;
        }
        for (row, sums) in tile.into_iter().enumerate().take(rest) {
            let to = out.add(row * job.out_stride);
            let mut lanes = [S::Element::default(); COLUMNS];
            core::ptr::copy_nonoverlapping(to, lanes.as_mut_ptr(), scale.count);
            store.store(sums, scale, lanes.as_mut_ptr());
            core::ptr::copy_nonoverlapping(lanes.as_ptr(), to, scale.count);
        }
    }
}
