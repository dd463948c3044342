//! Products of rows with columns, sixteen elements of K at a time, and the epilogue of dense layers.
//!
//! Register plan of a tile of 4 rows x 4 columns: 16 accumulators of four lanes, 4 columns, 1 row. Per 16 of K, for 256
//! MACs: 8 loads and 16 SDOT, or 8 loads, 32 SMULL and 32 SADALP. At the end three ADDP per row.
//!
//! SMMLA multiplies two rows by two columns over eight of K: 32 MACs. 8 rows x 4 columns are 8 accumulators; the rows lie
//! in pairs in the scratch memory, the columns are paired by 4 ZIP. Per 16 of K, for 512 MACs: 12 loads, 4 ZIP, 16 SMMLA.
//!
//! Cycles per iteration by `llvm-mca` 22, and what the multipliers alone take:
//!
//! | core | SMULL, 256 MACs | SDOT, 256 MACs | SMMLA, 512 MACs |
//! |---|---|---|---|
//! | Cortex-A53 | 101 (64) | - | - |
//! | Cortex-A55 | 85 (64) | 37 (16) | - |
//! | Cortex-A72 | 32 (32) | - | - |
//! | Cortex-A76 (model of Neoverse N1) | 32 (16) | 13 (8) | - |
//! | Cortex-X1 | 16 (16) | 4.1 (4) | - |
//! | Neoverse N2 | 32 (16) | 8.1 (8) | 10.1 (8) |

use crate::kernels::{DotJob, GROUP, LinearJob, PANEL, WeightFormat, whole_rows};
use core::arch::aarch64::*;
use core::arch::asm;

/// Rows of a tile.
const ROWS: usize = 4;
/// Rows of a tile of SMMLA.
const PAIRED_ROWS: usize = 8;

/// Where a dense layer writes; the pointers have room for every row and channel of the job.
#[derive(Clone, Copy)]
pub enum Sink {
    I8(*mut i8),
    I16(*mut i16),
    Residual(*mut i16, u32),
    Acc(*mut i32),
}

/// Adds the products of sixteen signed bytes with four times sixteen to four vectors of sums: which products go to which
/// lane does not matter.
pub trait Products {
    /// # Safety
    /// The processor must have the instruction.
    unsafe fn add(acc: &mut [int32x4_t; PANEL], x: int8x16_t, w: [int8x16_t; PANEL]);
}

/// By SMULL and SADALP. The products are added in pairs at once: two of `-128 * -128` do not fit 16 bits, so SMLAL is
/// not exact. All products come first: an in-order core waits for each one that is used at once.
pub struct Smull;

impl Products for Smull {
    #[inline(always)]
    unsafe fn add(acc: &mut [int32x4_t; PANEL], x: int8x16_t, w: [int8x16_t; PANEL]) {
        // SAFETY: NEON is in every AArch64.
        unsafe {
            let low = w.map(|w| vmull_s8(vget_low_s8(x), vget_low_s8(w)));
            let high = w.map(|w| vmull_high_s8(x, w));
            for (acc, low) in acc.iter_mut().zip(low) {
                *acc = vpadalq_s16(*acc, low);
            }
            for (acc, high) in acc.iter_mut().zip(high) {
                *acc = vpadalq_s16(*acc, high);
            }
        }
    }
}

/// By SDOT.
pub struct Sdot;

impl Products for Sdot {
    #[inline(always)]
    unsafe fn add(acc: &mut [int32x4_t; PANEL], x: int8x16_t, w: [int8x16_t; PANEL]) {
        for (acc, w) in acc.iter_mut().zip(w) {
            // SAFETY: the processor has the instruction, which touches only its registers.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    "sdot {acc:v}.4s, {x:v}.16b, {w:v}.16b",
                    acc = inout(vreg) *acc, x = in(vreg) x, w = in(vreg) w,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    }
}

/// `acc[row * 2 + column] += sum of a[row * 8 + i] * b[column * 8 + i]`.
///
/// # Safety
/// The processor must have i8mm.
#[inline(always)]
unsafe fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the processor has the instruction, which touches only its registers.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Sixteen elements from `at`, of which `left` exist; zeros beyond.
///
/// # Safety
/// `left` elements, sixteen at most, can be read.
#[inline(always)]
pub unsafe fn elements(at: *const i8, left: usize) -> int8x16_t {
    // SAFETY: the caller's contract.
    unsafe {
        if left >= GROUP {
            return vld1q_s8(at);
        }
        let mut bytes = [0i8; GROUP];
        core::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), left);
        vld1q_s8(bytes.as_ptr())
    }
}

/// Sixteen weights of channel `channel` of group `group` of a panel.
///
/// # Safety
/// The panel has the group.
#[inline(always)]
pub unsafe fn weights<const BITS: u32>(panel: *const u8, group: usize, channel: usize) -> int8x16_t {
    // SAFETY: the caller's contract.
    unsafe {
        if BITS == 8 {
            return vld1q_s8(panel.add((group * PANEL + channel) * GROUP).cast());
        }
        if BITS < 4 {
            let group = panel.add((group * PANEL + channel) * 2 * BITS as usize);
            let lanes = |word: u32, shifts: [i32; 4]| {
                vreinterpretq_s8_u32(vshlq_u32(vdupq_n_u32(word), vld1q_s32(shifts.as_ptr())))
            };
            let low = lanes(group.cast::<u32>().read_unaligned(), [0, -2, -4, -6]);
            if BITS == 2 {
                return vshrq_n_s8::<6>(vshlq_n_s8::<6>(low));
            }
            // Each half of the two bytes of signs to a byte of its own, then to bit 2 of lane `j` by a shift of `2 - j`.
            let halves = u32::from(*group.add(4)) | u32::from(*group.add(5)) << 16;
            let signs = lanes(halves | halves << 4, [2, 1, 0, -1]);
            return vshrq_n_s8::<5>(vshlq_n_s8::<5>(vbslq_s8(vdupq_n_u8(3), low, signs)));
        }
        let nibbles = vld1_s8(panel.add((group * PANEL + channel) * GROUP / 2).cast());
        vcombine_s8(vshr_n_s8::<4>(vshl_n_s8::<4>(nibbles)), vshr_n_s8::<4>(nibbles))
    }
}

/// A dense layer; returns the rows and channels written.
///
/// # Safety
/// The processor must have the instructions of `P`; the sink has `len` elements.
pub unsafe fn dense<P: Products>(job: &LinearJob<'_>, x: &[i8], sink: Sink, len: usize) -> (usize, usize) {
    let (rows, n) = job.fit(x.len(), len);
    let panel_bytes = job.weights.format.panel_bytes(job.k);
    for (panel, scale) in (0..n.div_ceil(PANEL)).map(|panel| (panel, Scale::new(job, panel, n))) {
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: `fit` counts only rows and channels that `x`, the sink and the weights hold.
            unsafe {
                let panel = job.weights.bytes.as_ptr().add(panel * panel_bytes);
                let x = x.as_ptr().add(row * job.x_stride);
                let acc = match (job.weights.format, rows - row) {
                    (WeightFormat::I8, 1) => widen(dense_tile::<P, 1, 8>(panel, x, job)),
                    (WeightFormat::I8, 2) => widen(dense_tile::<P, 2, 8>(panel, x, job)),
                    (WeightFormat::I8, 3) => widen(dense_tile::<P, 3, 8>(panel, x, job)),
                    (WeightFormat::I8, _) => dense_tile::<P, 4, 8>(panel, x, job),
                    (WeightFormat::I4, 1) => widen(dense_tile::<P, 1, 4>(panel, x, job)),
                    (WeightFormat::I4, 2) => widen(dense_tile::<P, 2, 4>(panel, x, job)),
                    (WeightFormat::I4, 3) => widen(dense_tile::<P, 3, 4>(panel, x, job)),
                    (WeightFormat::I4, _) => dense_tile::<P, 4, 4>(panel, x, job),
                    (WeightFormat::I3, 1) => widen(dense_tile::<P, 1, 3>(panel, x, job)),
                    (WeightFormat::I3, 2) => widen(dense_tile::<P, 2, 3>(panel, x, job)),
                    (WeightFormat::I3, 3) => widen(dense_tile::<P, 3, 3>(panel, x, job)),
                    (WeightFormat::I3, _) => dense_tile::<P, 4, 3>(panel, x, job),
                    (WeightFormat::I2, 1) => widen(dense_tile::<P, 1, 2>(panel, x, job)),
                    (WeightFormat::I2, 2) => widen(dense_tile::<P, 2, 2>(panel, x, job)),
                    (WeightFormat::I2, 3) => widen(dense_tile::<P, 3, 2>(panel, x, job)),
                    (WeightFormat::I2, _) => dense_tile::<P, 4, 2>(panel, x, job),
                };
                for (row, acc) in (row..rows).zip(acc) {
                    scale.store(acc, sink, row * job.out_stride);
                }
            }
        }
    }
    (rows, n)
}

/// Rows that do not exist are zeros, and not stored.
#[inline(always)]
fn widen<const R: usize>(rows: [int32x4_t; R]) -> [int32x4_t; ROWS] {
    // SAFETY: NEON is in every AArch64.
    let mut all = [unsafe { vdupq_n_s32(0) }; ROWS];
    for (to, from) in all.iter_mut().zip(rows) {
        *to = from;
    }
    all
}

/// The sums of `R` rows from `x` with the four channels of a panel.
///
/// # Safety
/// The processor must have the instructions of `P`; rows and panel hold K elements and whole groups.
#[inline(always)]
unsafe fn dense_tile<P: Products, const R: usize, const BITS: u32>(
    panel: *const u8,
    x: *const i8,
    job: &LinearJob<'_>,
) -> [int32x4_t; R] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); PANEL]; R];
        let whole = job.k / GROUP;
        for group in 0..whole {
            let w = [0, 1, 2, 3].map(|channel| weights::<BITS>(panel, group, channel));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = vld1q_s8(x.add(r * job.x_stride + group * GROUP));
                P::add(acc, x, w);
            }
        }
        if whole * GROUP < job.k {
            let w = [0, 1, 2, 3].map(|channel| weights::<BITS>(panel, whole, channel));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = elements(x.add(r * job.x_stride + whole * GROUP), job.k - whole * GROUP);
                P::add(acc, x, w);
            }
        }
        acc.map(add_lanes)
    }
}

/// The sums of four vectors' lanes.
#[inline(always)]
fn add_lanes([a, b, c, d]: [int32x4_t; PANEL]) -> int32x4_t {
    // SAFETY: NEON is in every AArch64.
    unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
}

/// Bytes of the rows of a tile of SMMLA in pairs.
fn paired_bytes(k: usize) -> usize {
    PAIRED_ROWS * k.next_multiple_of(GROUP)
}

/// Whether the scratch memory holds the rows of a tile in pairs.
pub fn pairs_fit(job: &LinearJob<'_>, scratch: &[u8]) -> bool {
    scratch.len() >= paired_bytes(job.k)
}

/// [`dense`] by SMMLA.
///
/// # Safety
/// The processor must have i8mm; the sink has `len` elements; [`pairs_fit`].
pub unsafe fn dense_pairs(job: &LinearJob<'_>, x: &[i8], sink: Sink, len: usize, scratch: &mut [u8]) -> (usize, usize) {
    let (rows, n) = job.fit(x.len(), len);
    let panel_bytes = job.weights.format.panel_bytes(job.k);
    let paired: *mut i8 = scratch.as_mut_ptr().cast();
    for row in (0..rows).step_by(PAIRED_ROWS) {
        let count = (rows - row).min(PAIRED_ROWS);
        // SAFETY: `fit` counts only rows and channels that `x`, the sink and the weights hold; the scratch holds eight
        // rows of whole groups.
        unsafe {
            pair_rows(x.as_ptr().add(row * job.x_stride), job.x_stride, job.k, count, paired);
            for panel in 0..n.div_ceil(PANEL) {
                let scale = Scale::new(job, panel, n);
                let panel = job.weights.bytes.as_ptr().add(panel * panel_bytes);
                let groups = job.k.div_ceil(GROUP);
                let acc = match job.weights.format {
                    WeightFormat::I8 => paired_tile::<8>(panel, paired, groups),
                    WeightFormat::I4 => paired_tile::<4>(panel, paired, groups),
                    WeightFormat::I3 => paired_tile::<3>(panel, paired, groups),
                    WeightFormat::I2 => paired_tile::<2>(panel, paired, groups),
                };
                for (row, acc) in (row..row + count).zip(acc) {
                    scale.store(acc, sink, row * job.out_stride);
                }
            }
        }
    }
    (rows, n)
}

/// Lays rows out as SMMLA reads them: `[groups][4 pairs][2 halves][2 rows][8]`; rows beyond `count` are zeros.
///
/// # Safety
/// There are `count` rows of `k` elements, and room for eight rows of whole groups.
unsafe fn pair_rows(x: *const i8, stride: usize, k: usize, count: usize, to: *mut i8) {
    for group in 0..k.div_ceil(GROUP) {
        let left = k - group * GROUP;
        for pair in 0..PAIRED_ROWS / 2 {
            // SAFETY: the caller's contract.
            unsafe {
                let row = |index: usize| {
                    let exists = if index < count { left } else { 0 };
                    elements(x.add(index.min(count - 1) * stride + group * GROUP), exists)
                };
                let (a, b) = (vreinterpretq_s64_s8(row(pair * 2)), vreinterpretq_s64_s8(row(pair * 2 + 1)));
                let at = to.add((group * PAIRED_ROWS + pair * 2) * GROUP);
                vst1q_s8(at, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
                vst1q_s8(at.add(GROUP), vreinterpretq_s8_s64(vzip2q_s64(a, b)));
            }
        }
    }
}

/// The sums of eight paired rows with the four channels of a panel.
///
/// # Safety
/// The processor must have i8mm; `x` has the groups of eight rows, the panel its groups.
#[inline(always)]
unsafe fn paired_tile<const BITS: u32>(panel: *const u8, x: *const i8, groups: usize) -> [int32x4_t; PAIRED_ROWS] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 2]; PAIRED_ROWS / 2];
        for group in 0..groups {
            let w = [0, 1, 2, 3].map(|channel| vreinterpretq_s64_s8(weights::<BITS>(panel, group, channel)));
            let low = [vzip1q_s64(w[0], w[1]), vzip1q_s64(w[2], w[3])].map(|w| vreinterpretq_s8_s64(w));
            let high = [vzip2q_s64(w[0], w[1]), vzip2q_s64(w[2], w[3])].map(|w| vreinterpretq_s8_s64(w));
            for (pair, acc) in acc.iter_mut().enumerate() {
                let at = x.add((group * PAIRED_ROWS + pair * 2) * GROUP);
                let (x_low, x_high) = (vld1q_s8(at), vld1q_s8(at.add(GROUP)));
                for (acc, (low, high)) in acc.iter_mut().zip(low.into_iter().zip(high)) {
                    *acc = smmla(smmla(*acc, x_low, low), x_high, high);
                }
            }
        }
        let mut rows = [vdupq_n_s32(0); PAIRED_ROWS];
        for (rows, [ab, cd]) in rows.as_chunks_mut::<2>().0.iter_mut().zip(acc) {
            let (ab, cd) = (vreinterpretq_s64_s32(ab), vreinterpretq_s64_s32(cd));
            *rows = [vreinterpretq_s32_s64(vzip1q_s64(ab, cd)), vreinterpretq_s32_s64(vzip2q_s64(ab, cd))];
        }
        rows
    }
}

/// Bias and requantization of the four channels of a panel.
struct Scale {
    bias: int32x4_t,
    multipliers: int32x4_t,
    acc_shift: int32x4_t,
    zero_point: int32x4_t,
    /// First channel.
    channel: usize,
    /// Channels that exist.
    count: usize,
}

impl Scale {
    fn new(job: &LinearJob<'_>, panel: usize, n: usize) -> Self {
        let channel = panel * PANEL;
        let lanes = |values: &[i32]| {
            let lanes = values.as_chunks::<PANEL>().0.get(panel).copied().unwrap_or_default();
            // SAFETY: four values.
            unsafe { vld1q_s32(lanes.as_ptr()) }
        };
        // SAFETY: NEON is in every AArch64.
        let (acc_shift, zero_point) = unsafe { (vdupq_n_s32(job.acc_shift as i32), vdupq_n_s32(job.zero_point)) };
        let count = (n - channel).min(PANEL);
        Self { bias: lanes(job.bias), multipliers: lanes(job.multipliers), acc_shift, zero_point, channel, count }
    }

    /// Stores a row of sums; the row starts at element `row` of the sink.
    ///
    /// # Safety
    /// The sink has these elements.
    #[inline(always)]
    unsafe fn store(&self, acc: int32x4_t, sink: Sink, row: usize) {
        let at = row + self.channel;
        // SAFETY: the caller's contract.
        unsafe {
            let acc = vaddq_s32(acc, self.bias);
            let y = mulhi_round(vshlq_s32(acc, self.acc_shift), self.multipliers);
            match sink {
                Sink::I8(out) => {
                    let y = vqmovn_s32(vaddq_s32(y, self.zero_point));
                    let y = vqmovn_s16(vcombine_s16(y, y));
                    let mut lanes = [0i8; 2 * PANEL];
                    vst1_s8(lanes.as_mut_ptr(), y);
                    self.copy(lanes.as_ptr(), out.add(at));
                }
                Sink::I16(out) => {
                    let mut lanes = [0i16; PANEL];
                    vst1_s16(lanes.as_mut_ptr(), vqmovn_s32(y));
                    self.copy(lanes.as_ptr(), out.add(at));
                }
                Sink::Residual(out, shift) => {
                    let mut lanes = [0i16; PANEL];
                    self.copy(out.add(at), lanes.as_mut_ptr());
                    // A rounding shift left by a negative count is `rshift_round`.
                    let residual = vrshlq_s32(vmovl_s16(vld1_s16(lanes.as_ptr())), vdupq_n_s32(-(shift as i32)));
                    vst1_s16(lanes.as_mut_ptr(), vqmovn_s32(vaddq_s32(y, residual)));
                    self.copy(lanes.as_ptr(), out.add(at));
                }
                Sink::Acc(out) => {
                    let mut lanes = [0i32; PANEL];
                    vst1q_s32(lanes.as_mut_ptr(), acc);
                    self.copy(lanes.as_ptr(), out.add(at));
                }
            }
        }
    }

    /// Copies the channels that exist.
    ///
    /// # Safety
    /// Both sides have them.
    #[inline(always)]
    unsafe fn copy<T: Copy>(&self, from: *const T, to: *mut T) {
        // SAFETY: the caller's contract. The constant count becomes one load and one store.
        unsafe {
            if self.count == PANEL {
                to.cast::<[T; PANEL]>().write_unaligned(from.cast::<[T; PANEL]>().read_unaligned());
            } else {
                core::ptr::copy_nonoverlapping(from, to, self.count);
            }
        }
    }
}

/// [`crate::arith::requant::mulhi_round`]: SMULL, and RSHRN by 32.
#[inline(always)]
fn mulhi_round(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is in every AArch64.
    unsafe {
        let low = vmull_s32(vget_low_s32(a), vget_low_s32(b));
        vrshrn_high_n_s64::<32>(vrshrn_n_s64::<32>(low), vmull_high_s32(a, b))
    }
}

/// [`crate::kernels::Kernels::dot_i8`], or with `UNSIGNED` the same over `u8` rows given as `i8`: 128 is subtracted by
/// flipping the sign bit, and 128 times the sum of the column added at the end.
///
/// # Safety
/// The processor must have the instructions of `P`.
pub unsafe fn dots<P: Products, const UNSIGNED: bool>(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32]) {
    let rows = job.rows.min(whole_rows(x.len(), job.x_stride, job.k));
    let columns = job.cols.min(whole_rows(y.len(), job.y_stride, job.k));
    for column in (0..columns).step_by(PANEL) {
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: `rows` and `columns` count only what the slices hold; rows and columns beyond the last are the
            // last again, and not stored.
            let acc = unsafe {
                let x = [0, 1, 2, 3].map(|i| x.as_ptr().add((row + i).min(rows - 1) * job.x_stride));
                let y = [0, 1, 2, 3].map(|i| y.as_ptr().add((column + i).min(columns - 1) * job.y_stride));
                dot_tile::<P, UNSIGNED>(x, y, job.k)
            };
            for (row, acc) in (row..rows).zip(acc) {
                let mut lanes = [0i32; PANEL];
                // SAFETY: four values.
                unsafe { vst1q_s32(lanes.as_mut_ptr(), acc) };
                let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
                for (out, lane) in out.iter_mut().zip(lanes).take(columns - column) {
                    *out = lane;
                }
            }
        }
    }
}

/// # Safety
/// The processor must have the instructions of `P`; all rows and columns have `k` elements.
#[inline(always)]
unsafe fn dot_tile<P: Products, const UNSIGNED: bool>(
    x: [*const i8; ROWS],
    y: [*const i8; PANEL],
    k: usize,
) -> [int32x4_t; ROWS] {
    // SAFETY: the caller's contract.
    unsafe {
        let zero = vdupq_n_s32(0);
        let (sign, ones) = (vdupq_n_s8(i8::MIN), vdupq_n_s8(1));
        let (mut acc, mut sums) = ([[zero; PANEL]; ROWS], [zero; PANEL]);
        let mut add = |x: [int8x16_t; ROWS], y: [int8x16_t; PANEL]| {
            for (acc, x) in acc.iter_mut().zip(x) {
                P::add(acc, if UNSIGNED { veorq_s8(x, sign) } else { x }, y);
            }
            if UNSIGNED {
                P::add(&mut sums, ones, y);
            }
        };
        let whole = k / GROUP * GROUP;
        for at in (0..whole).step_by(GROUP) {
            add(x.map(|x| vld1q_s8(x.add(at))), y.map(|y| vld1q_s8(y.add(at))));
        }
        if whole < k {
            add(x.map(|x| elements(x.add(whole), k - whole)), y.map(|y| elements(y.add(whole), k - whole)));
        }
        let excess = vshlq_n_s32::<7>(add_lanes(sums));
        acc.map(|acc| if UNSIGNED { vaddq_s32(add_lanes(acc), excess) } else { add_lanes(acc) })
    }
}

/// [`crate::kernels::Kernels::dot_u16`] by SMLAL: the exponentials are below 2^15, four columns share those of a row.
pub fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], _scratch: &mut [u8]) {
    const LANES: usize = 8;
    let rows = job.rows.min(whole_rows(x.len(), job.x_stride, job.k));
    let columns = job.cols.min(whole_rows(y.len(), job.y_stride, job.k));
    let whole = job.k / LANES * LANES;
    for row in 0..rows {
        let x = x.get(row * job.x_stride..).and_then(|x| x.get(..job.k)).unwrap_or(&[]);
        for column in (0..columns).step_by(PANEL) {
            // SAFETY: `columns` counts only what the slice holds; columns beyond the last are the last again.
            let mut sums = unsafe {
                let y = [0, 1, 2, 3].map(|i| y.as_ptr().add((column + i).min(columns - 1) * job.y_stride));
                let mut acc = [vdupq_n_s32(0); PANEL];
                for at in (0..whole).step_by(LANES) {
                    let x = vreinterpretq_s16_u16(vld1q_u16(x.as_ptr().add(at)));
                    for (acc, y) in acc.iter_mut().zip(y) {
                        let y = vmovl_s8(vld1_s8(y.add(at)));
                        *acc = vmlal_high_s16(vmlal_s16(*acc, vget_low_s16(x), vget_low_s16(y)), x, y);
                    }
                }
                let mut sums = [0i32; PANEL];
                vst1q_s32(sums.as_mut_ptr(), add_lanes(acc));
                sums
            };
            let out = out.get_mut(row * job.out_stride + column..).unwrap_or(&mut []);
            for ((out, sum), column) in out.iter_mut().zip(&mut sums).zip(column..columns) {
                let y = y.get(column * job.y_stride..).unwrap_or(&[]).iter().take(job.k).skip(whole);
                let rest: i32 = x.iter().skip(whole).zip(y).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
                *out = *sum + rest;
            }
        }
    }
}
