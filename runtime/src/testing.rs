//! One table of cases that every instruction set must compute exactly as [`Portable`] does.
//!
//! [`check`] runs on the host and on emulated cores alike: the memory is the caller's, the numbers come from a fixed
//! seed. Shapes include K = 1, N = 1, one row, tails of every group, rows at odd addresses and strides, and the extremes
//! of every element type.

use crate::arith::exp::{MASKED, RowScale};
use crate::kernels::{
    AttentionJob, DepthwiseJob, DepthwiseOut, DotJob, ExpRow, Kernels, LUT_I16_ENTRIES, LinearJob, LinearOut, NormJob,
    NormOut, NormRow, PoolJob, PoolMean, Portable, ROW_BLOCK, RotaryJob, ScoreBias, ScoreScale, WideJob, Windows,
    attend_scratch_bytes, dense_scratch_bytes, linear_scratch_bytes, wide_scratch_bytes,
};
use crate::weights::WeightFormat::{I2, I3, I4, I8};
use crate::weights::{GROUP, PANEL, PackedWeights, WeightFormat};

/// Bytes of memory that the table needs.
pub const TABLE_BYTES: usize = 24 * 1024;

/// Numbers from a fixed seed (xorshift).
#[derive(Clone, Copy, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A sequence; equal seeds, equal numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// A number in `low..=high`.
    pub fn within(&mut self, low: i32, high: i32) -> i32 {
        let span = (i64::from(high) - i64::from(low) + 1) as u64;
        low.wrapping_add(((u64::from(self.bits()) * span) >> 32) as i32)
    }
}

/// How values are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Evenly over the whole range.
    Random,
    /// All the minimum.
    Min,
    /// All the maximum.
    Max,
}

impl Fill {
    fn i8(self, numbers: &mut Numbers) -> i8 {
        match self {
            Self::Random => numbers.bits() as i8,
            Self::Min => i8::MIN,
            Self::Max => i8::MAX,
        }
    }

    fn i16(self, numbers: &mut Numbers) -> i16 {
        match self {
            Self::Random => numbers.bits() as i16,
            Self::Min => i16::MIN,
            Self::Max => i16::MAX,
        }
    }
}

/// The first difference a check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The method of [`Kernels`].
    pub kernel: &'static str,
    /// Index of the case in its table, or a number chosen by the caller.
    pub case: usize,
    /// Position in the output.
    pub at: usize,
    /// What [`Portable`] has there.
    pub expected: i64,
    /// What the checked kernels have there.
    pub actual: i64,
}

/// Memory of a check, taken from the caller's piece by piece.
struct Arena<'a>(&'a mut [u8]);

impl<'a> Arena<'a> {
    /// `len` elements, `skew` bytes beyond an address divisible by 16. Empty when the memory does not suffice.
    fn take<T: bytemuck::Pod>(&mut self, len: usize, skew: usize) -> &'a mut [T] {
        let memory = core::mem::take(&mut self.0);
        let from = (memory.as_ptr() as usize).wrapping_neg() % 16 + skew;
        let bytes = len * size_of::<T>();
        assert!(from + bytes <= memory.len(), "the check needs more memory");
        let (taken, rest) = memory.split_at_mut(from + bytes);
        self.0 = rest;
        bytemuck::cast_slice_mut(&mut taken[from..])
    }
}

fn compare<T: Copy + PartialEq + Into<i64>>(
    kernel: &'static str,
    case: usize,
    expected: &[T],
    actual: &[T],
) -> Result<(), Difference> {
    match expected.iter().zip(actual).position(|(e, a)| e != a) {
        None => Ok(()),
        Some(at) => Err(Difference { kernel, case, at, expected: expected[at].into(), actual: actual[at].into() }),
    }
}

/// What a dense layer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// [`LinearOut::I8`] without a table.
    I8,
    /// [`LinearOut::I8`] with a table.
    Lut,
    /// [`LinearOut::I16`].
    I16,
    /// [`LinearOut::I16Residual`] with this shift.
    Residual(u32),
}

/// A dense layer to compare.
#[derive(Clone, Copy, Debug)]
pub struct LinearCase {
    /// Rows, K, channels.
    pub size: [usize; 3],
    /// How the weights are packed.
    pub format: WeightFormat,
    /// Elements between rows of `x` beyond K, and of the output beyond the channels.
    pub gaps: [usize; 2],
    /// Bytes that `x` lies beyond an aligned address.
    pub skew: usize,
    /// What is written.
    pub output: Output,
    /// How activations and weights are chosen.
    pub fill: Fill,
    /// Left shift of accumulators.
    pub acc_shift: u32,
}

impl LinearCase {
    const fn new(size: [usize; 3], format: WeightFormat, output: Output) -> Self {
        Self { size, format, gaps: [0, 0], skew: 0, output, fill: Fill::Random, acc_shift: 0 }
    }
}

/// Dense layers that every instruction set is checked with.
pub const LINEAR_CASES: &[LinearCase] = &[
    LinearCase::new([1, 1, 1], I8, Output::I8),
    LinearCase::new([1, 1, 1], I4, Output::I8),
    LinearCase::new([2, 3, 5], I8, Output::I16),
    LinearCase::new([3, 15, 4], I8, Output::Residual(0)),
    LinearCase::new([4, 16, 4], I8, Output::I8),
    LinearCase::new([5, 17, 7], I8, Output::Residual(3)),
    LinearCase::new([5, 33, 9], I4, Output::Residual(1)),
    LinearCase::new([6, 31, 16], I4, Output::I16),
    LinearCase::new([7, 64, 17], I8, Output::Lut),
    LinearCase { gaps: [5, 3], skew: 1, ..LinearCase::new([7, 40, 10], I8, Output::I8) },
    LinearCase { gaps: [1, 1], skew: 3, ..LinearCase::new([3, 21, 6], I4, Output::Lut) },
    LinearCase { skew: 2, ..LinearCase::new([1, 64, 35], I8, Output::I8) },
    LinearCase { skew: 1, ..LinearCase::new([1, 80, 22], I8, Output::I8) },
    LinearCase::new([2, 112, 12], I8, Output::Residual(4)),
    LinearCase { gaps: [7, 0], ..LinearCase::new([13, 50, 33], I8, Output::Residual(15)) },
    LinearCase { skew: 1, ..LinearCase::new([12, 18, 34], I8, Output::I16) },
    LinearCase { acc_shift: 3, ..LinearCase::new([14, 20, 20], I4, Output::I16) },
    LinearCase { fill: Fill::Min, ..LinearCase::new([13, 48, 33], I8, Output::I16) },
    LinearCase { fill: Fill::Min, ..LinearCase::new([2, 48, 3], I4, Output::I16) },
    LinearCase::new([1, 1, 1], I3, Output::I8),
    LinearCase { gaps: [2, 1], skew: 1, ..LinearCase::new([6, 37, 9], I3, Output::Lut) },
    LinearCase { fill: Fill::Min, ..LinearCase::new([3, 32, 7], I3, Output::Residual(2)) },
    LinearCase::new([1, 50, 18], I3, Output::I16),
    LinearCase::new([1, 1, 1], I2, Output::I8),
    LinearCase { gaps: [1, 3], skew: 3, ..LinearCase::new([7, 45, 11], I2, Output::Residual(3)) },
    LinearCase { fill: Fill::Min, ..LinearCase::new([2, 31, 4], I2, Output::Lut) },
    LinearCase { acc_shift: 2, ..LinearCase::new([14, 64, 20], I2, Output::I16) },
    LinearCase { fill: Fill::Max, acc_shift: 4, ..LinearCase::new([1, 48, 5], I8, Output::I8) },
    LinearCase { fill: Fill::Max, ..LinearCase::new([9, 31, 5], I8, Output::Residual(2)) },
];

/// Compares one dense layer.
///
/// # Errors
/// [`Difference`] where `B` and [`Portable`] differ.
///
/// # Panics
/// When `memory` is too small.
pub fn linear<B: Kernels>(index: usize, case: &LinearCase, memory: &mut [u8]) -> Result<(), Difference> {
    let LinearCase { size: [rows, k, n], format, gaps, skew, output, fill, acc_shift } = *case;
    let mut numbers = Numbers::new(index as u64 + 1);
    let mut arena = Arena(memory);
    let (x_stride, out_stride) = (k + gaps[0], n + gaps[1]);
    let x = arena.take::<i8>(rows * x_stride, skew);
    x.fill_with(|| fill.i8(&mut numbers));
    let weights = arena.take::<u8>(PackedWeights::bytes_for(n, k, format), 0);
    fill_weights(weights, [n, k], format, fill, &mut numbers);
    let channels = n.next_multiple_of(4);
    let bias = arena.take::<i32>(channels, 0);
    bias.fill_with(|| numbers.within(-100_000, 100_000));
    let multipliers = arena.take::<i32>(channels, 0);
    // Outputs over the whole range and beyond it on both sides.
    let typical = typical_multiplier(k, matches!(output, Output::I8 | Output::Lut)) >> acc_shift;
    multipliers.fill_with(|| numbers.within(typical / 2, typical));
    let zero_point = if matches!(output, Output::I8 | Output::Lut) { numbers.within(-128, 127) } else { 0 };
    let scratch = arena.take::<u8>(dense_scratch_bytes(k, format), 0);
    let table = arena.take::<i8>(256, 0);
    table.fill_with(|| numbers.bits() as i8);
    let weights = PackedWeights { bytes: weights, format };
    let (bias, multipliers) = (&*bias, &*multipliers);
    let job = LinearJob { rows, k, n, x_stride, out_stride, weights, bias, multipliers, acc_shift, zero_point };
    let mut both = [arena.take::<i16>(rows * out_stride, 0), arena.take::<i16>(rows * out_stride, 0)];
    let lut = (output == Output::Lut).then(|| (&*table).try_into().expect("256 entries"));
    let start = numbers;
    let mut requantized = |name, run: &mut dyn FnMut(usize, LinearOut<'_>)| {
        for (index, out) in both.iter_mut().enumerate() {
            let mut numbers = start;
            out.fill_with(|| fill.i16(&mut numbers));
            let out = match output {
                // Half of the memory, from an odd address.
                Output::I8 | Output::Lut => {
                    LinearOut::I8 { out: &mut bytemuck::cast_slice_mut(out)[skew % 2..][..rows * out_stride], lut }
                }
                Output::I16 => LinearOut::I16 { out },
                Output::Residual(residual_shift) => LinearOut::I16Residual { out, residual_shift },
            };
            run(index, out);
        }
        let [expected, actual] = both.each_ref().map(|out| bytemuck::cast_slice::<i16, u8>(out));
        compare(name, index, expected, actual)
    };
    requantized("linear", &mut |index, out| {
        if index == 0 { Portable::linear(&job, x, out, scratch) } else { B::linear(&job, x, out, scratch) }
    })?;
    let [expected, actual] = [arena.take::<i32>(rows * out_stride, 0), arena.take::<i32>(rows * out_stride, 0)];
    expected.fill(1);
    actual.fill(1);
    Portable::linear_acc(&job, x, expected, scratch);
    B::linear_acc(&job, x, actual, scratch);
    compare("linear_acc", index, expected, actual)?;
    // 16-bit activations, where there is room for their halves.
    let wide_bytes = wide_scratch_bytes(rows, n, k) + dense_scratch_bytes(k, format);
    if arena.0.len() < wide_bytes + 2 * rows * x_stride + 4 * channels + 64 {
        return Ok(());
    }
    let x = arena.take::<i16>(rows * x_stride, 0);
    x.fill_with(|| fill.i16(&mut numbers));
    let drop = (index % 9) as u32;
    // Sums have so many bits more.
    let small = arena.take::<i32>(channels, 0);
    small.iter_mut().zip(multipliers).for_each(|(small, &m)| *small = m >> (8 - drop));
    let scratch = arena.take::<u8>(wide_bytes, 0);
    let job = WideJob { dense: LinearJob { multipliers: small, ..job }, low_bias: bias, drop };
    requantized("linear_wide", &mut |index, out| {
        if index == 0 { Portable::linear_wide(&job, x, out, scratch) } else { B::linear_wide(&job, x, out, scratch) }
    })
}

/// A multiplier that takes a random sum of `k` products to about 128 steps of 8 bits, or as many of 16 bits as fit:
/// `128 / (sqrt(k) * 74^2) * 2^32`.
fn typical_multiplier(k: usize, narrow: bool) -> i32 {
    let root = (1..k).find(|r| r * r >= k).unwrap_or(1);
    let narrow_scale = (128 * (1i64 << 32) / (root as i64 * 5476)) as i32;
    if narrow { narrow_scale } else { narrow_scale.saturating_mul(256) }
}

/// Weights of `[n, k]` in the packed layout; the padding stays zero.
fn fill_weights(weights: &mut [u8], [n, k]: [usize; 2], format: WeightFormat, fill: Fill, numbers: &mut Numbers) {
    weights.fill(0);
    let groups = k.div_ceil(GROUP);
    for channel in 0..n {
        for i in 0..k {
            let w = fill.i8(numbers);
            let group = (channel / PANEL * groups + i / GROUP) * PANEL + channel % PANEL;
            let group = &mut weights[group * format.group_bytes()..][..format.group_bytes()];
            // The upper bits of what 8 bits would have.
            format.put(group, i % GROUP, w >> (8 - format.bits()));
        }
    }
}

/// `[rows, cols, k]`, gaps of `x`, `y` and output, bytes beyond an aligned address.
pub type DotCase = ([usize; 3], [usize; 3], usize);

/// Dot products that every instruction set is checked with.
pub const DOT_CASES: &[DotCase] = &[
    ([1, 1, 1], [0, 0, 0], 0),
    ([1, 2, 3], [1, 2, 0], 1),
    ([2, 17, 16], [0, 0, 1], 0),
    ([3, 5, 15], [3, 1, 0], 1),
    ([4, 50, 16], [32, 32, 14], 0),
    ([5, 16, 64], [0, 0, 0], 0),
    ([5, 33, 50], [14, 14, 0], 2),
    ([ROW_BLOCK, 3, 65], [1, 1, 2], 3),
    ([1, 7, 100], [0, 0, 0], 1),
];

/// Compares dot products of one shape, in the three element types, and scores.
///
/// # Errors
/// [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn dots<B: Kernels>(index: usize, case: &DotCase, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    let &([rows, cols, k], [x_gap, y_gap, out_gap], skew) = case;
    let mut numbers = Numbers::new(index as u64 + 1);
    let mut arena = Arena(memory);
    let (x_stride, y_stride, out_stride) = (k + x_gap, k + y_gap, cols + out_gap);
    let job = DotJob { rows, cols, k, x_stride, y_stride, out_stride };
    let x = arena.take::<u16>(rows * x_stride, 0);
    x.fill_with(|| (fill.i16(&mut numbers) as u16).min(crate::arith::exp::EXP2_ONE as u16));
    let narrow = arena.take::<u8>(rows * x_stride, skew);
    narrow.fill_with(|| fill.i8(&mut numbers) as u8);
    let (x, narrow) = (&*x, &*narrow);
    let y = arena.take::<i8>(cols * y_stride, skew);
    y.fill_with(|| fill.i8(&mut numbers));
    let scratch = arena.take::<u8>(linear_scratch_bytes(k), 0);
    let expected = arena.take::<i32>(rows * out_stride, 0);
    let actual = arena.take::<i32>(rows * out_stride, 0);
    let scale = ScoreScale { acc_shift: 2, multiplier: 40_000_000 };
    let signed: &[i8] = bytemuck::cast_slice(narrow);
    for kernel in ["dot_i8", "dot_u8", "dot_u16", "scores"] {
        expected.fill(-1);
        actual.fill(-1);
        match kernel {
            "dot_i8" => {
                Portable::dot_i8(&job, signed, y, expected, scratch);
                B::dot_i8(&job, signed, y, actual, scratch);
            }
            "dot_u8" => {
                Portable::dot_u8(&job, narrow, y, expected, scratch);
                B::dot_u8(&job, narrow, y, actual, scratch);
            }
            "dot_u16" => {
                Portable::dot_u16(&job, x, y, expected, scratch);
                B::dot_u16(&job, x, y, actual, scratch);
            }
            _ => {
                Portable::scores(&job, scale, signed, y, expected, scratch);
                B::scores(&job, scale, signed, y, actual, scratch);
            }
        }
        compare(kernel, index, expected, actual)?;
    }
    Ok(())
}

/// Lengths of rows that every instruction set is checked with.
pub const ROW_CASES: &[usize] = &[1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 50, 64, 100, 192];

/// Compares everything that works on one row of `n` elements.
///
/// # Errors
/// [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn rows<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    softmax_rows::<B>(n, fill, memory)?;
    norm_rows::<B>(n, fill, memory)?;
    let mut numbers = Numbers::new(n as u64);
    let mut arena = Arena(memory);
    let table = arena.take::<i8>(256, 0);
    table.fill_with(|| numbers.bits() as i8);
    let table: &[i8; 256] = (&*table).try_into().expect("256 entries");
    let [expected, actual] = [arena.take::<i8>(n, 1), arena.take::<i8>(n, 1)];
    expected.fill_with(|| fill.i8(&mut numbers));
    actual.copy_from_slice(expected);
    Portable::lut_in_place(expected, table);
    B::lut_in_place(actual, table);
    compare("lut_in_place", n, expected, actual)?;
    let table = arena.take::<i16>(LUT_I16_ENTRIES, 2);
    table.fill_with(|| fill.i16(&mut numbers));
    table.iter_mut().step_by(3).for_each(|entry| *entry = numbers.bits() as i16);
    let table: &[i16; LUT_I16_ENTRIES] = (&*table).try_into().expect("as many entries");
    let [expected, actual] = [arena.take::<i16>(n, 2), arena.take::<i16>(n, 2)];
    for fill in [Fill::Random, fill] {
        expected.fill_with(|| fill.i16(&mut numbers));
        actual.copy_from_slice(expected);
        Portable::lut_i16_in_place(expected, table);
        B::lut_i16_in_place(actual, table);
        compare("lut_i16_in_place", n, expected, actual)?;
    }

    let [expected, actual, b] = [arena.take::<i16>(n, 2), arena.take::<i16>(n, 2), arena.take::<i16>(n, 0)];
    for (ma, mb, bias, shift) in [(1, 1, 0, 0), (16_000, -12_345, 1 << 13, 14), (-32_767, 32_767, 5, 15)] {
        expected.fill_with(|| fill.i16(&mut numbers));
        actual.copy_from_slice(expected);
        b.fill_with(|| fill.i16(&mut numbers));
        Portable::add_i16_in_place(expected, b, ma, mb, bias, shift);
        B::add_i16_in_place(actual, b, ma, mb, bias, shift);
        compare("add_i16_in_place", n, expected, actual)?;
    }
    requant::<B>(n, fill, memory)?;
    products::<B>(n, fill, memory)?;
    rotations::<B>(n, fill, memory)
}

fn products<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    let mut numbers = Numbers::new(n as u64 + 6000);
    let mut arena = Arena(memory);
    let [a, b] = [2, 0].map(|skew| {
        let row = arena.take::<i16>(n, skew);
        row.fill_with(|| fill.i16(&mut numbers));
        &*row
    });
    let bytes = |row| &bytemuck::cast_slice::<i16, i8>(row)[..n];
    let [expected, actual] = [0, 1].map(|_| arena.take::<i16>(n, 0));
    for (zeros, acc_shift, multiplier) in [([0; 3], 0, 1 << 18), ([0, 0, -7], 0, -(3 << 14)), ([5, -9, 3], 0, 1 << 20)]
    {
        let scale = ScoreScale { acc_shift, multiplier };
        // A product of 16-bit values and their zero points fits 32 bits as operators prove it: not of the extremes.
        let wide = zeros[0] == 0 || fill == Fill::Random;
        for (a, b) in [
            (NormRow::I16(a), NormRow::I16(b)),
            (NormRow::I8(bytes(a)), NormRow::I16(b)),
            (NormRow::I16(a), NormRow::I8(bytes(b))),
            (NormRow::I8(bytes(a)), NormRow::I8(bytes(b))),
        ] {
            if !wide && matches!((&a, &b), (NormRow::I16(_), NormRow::I16(_))) {
                continue;
            }
            Portable::multiply(a, b, NormOut::I16(expected), zeros, scale);
            B::multiply(a, b, NormOut::I16(actual), zeros, scale);
            compare("multiply", n, expected, actual)?;
            let narrow = |out| &mut bytemuck::cast_slice_mut::<i16, i8>(out)[..n];
            let (expected, actual) = (narrow(expected), narrow(actual));
            Portable::multiply(a, b, NormOut::I8(expected), zeros, scale);
            B::multiply(a, b, NormOut::I8(actual), zeros, scale);
            compare("multiply to 8 bits", n, expected, actual)?;
        }
    }
    let table: &mut [i16; 256] = match arena.take::<i16>(256, 0).first_chunk_mut() {
        Some(table) => table,
        None => return Ok(()),
    };
    table.fill_with(|| numbers.bits() as i16);
    Portable::lut_wide(bytes(a), table, expected);
    B::lut_wide(bytes(a), table, actual);
    compare("lut_wide", n, expected, actual)
}

/// Heads of a row of about `n` elements.
fn rotations<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    for (head_dim, rotary, interleaved) in [(8, 8, false), (6, 6, true), (7, 4, false), (16, 16, false)] {
        let mut numbers = Numbers::new(n as u64 + 7000);
        let mut arena = Arena(memory);
        let len = n.next_multiple_of(head_dim);
        let x = arena.take::<i16>(len, 2);
        x.fill_with(|| fill.i16(&mut numbers));
        let angles = arena.take::<i16>(rotary, 2);
        angles.fill_with(|| fill.i16(&mut numbers));
        let [expected, actual] = [0, 1].map(|_| arena.take::<i8>(len, 1));
        for (x, multiplier) in [(NormRow::I16(x), 1 << 17), (NormRow::I8(&bytemuck::cast_slice(x)[..len]), 1 << 25)] {
            let scale = ScoreScale { acc_shift: 0, multiplier };
            let job = RotaryJob { head_dim, rotary, interleaved, scale };
            [&mut *expected, &mut *actual].into_iter().for_each(|out| out.fill(1));
            Portable::rotate(&job, x, angles, expected);
            B::rotate(&job, x, angles, actual);
            compare("rotate", n, expected, actual)?;
        }
    }
    Ok(())
}

fn requant<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    let mut numbers = Numbers::new(n as u64 + 5000);
    let mut arena = Arena(memory);
    let [x, expected, actual] = [arena.take::<i16>(n, 2), arena.take::<i16>(n, 0), arena.take::<i16>(n, 0)];
    x.fill_with(|| fill.i16(&mut numbers));
    let bytes: &[i8] = &bytemuck::cast_slice(x)[..n];
    for (zeros, acc_shift, multiplier) in
        [([0, 0], 0, i32::MAX), ([-32768, 127], 15, 3 << 15), ([77, -128], 4, 1 << 27)]
    {
        for x in [NormRow::I16(x), NormRow::I8(bytes)] {
            let scale = ScoreScale { acc_shift, multiplier };
            Portable::requant(x, NormOut::I16(expected), zeros, scale);
            B::requant(x, NormOut::I16(actual), zeros, scale);
            compare("requant", n, expected, actual)?;
            let narrow = |out| &mut bytemuck::cast_slice_mut::<i16, i8>(out)[..n];
            let (expected, actual) = (narrow(expected), narrow(actual));
            Portable::requant(x, NormOut::I8(expected), zeros, scale);
            B::requant(x, NormOut::I8(actual), zeros, scale);
            compare("requant to 8 bits", n, expected, actual)?;
        }
    }
    Ok(())
}

fn softmax_rows<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    let mut numbers = Numbers::new(n as u64 + 1000);
    let mut arena = Arena(memory);
    let [expected, actual] = [arena.take::<i32>(n, 4), arena.take::<i32>(n, 4)];
    let [narrow, narrow_actual] = [arena.take::<u8>(n, 1), arena.take::<u8>(n, 1)];
    let [wide, wide_actual] = [arena.take::<u16>(n, 2), arena.take::<u16>(n, 2)];
    let scale = ScoreScale { acc_shift: 1, multiplier: 3_000_000 };
    expected.fill_with(|| match fill {
        Fill::Random => numbers.within(-1 << 20, 1 << 20),
        Fill::Min => -(1 << 30),
        Fill::Max => (1 << 30) - 1,
    });
    actual.copy_from_slice(expected);
    Portable::scale_scores(expected, scale);
    B::scale_scores(actual, scale);
    compare("scale_scores", n, expected, actual)?;
    // Half of the row far below the maximum, one in eight masked.
    for (index, score) in expected.iter_mut().enumerate() {
        let mask = if index % 8 == 5 { i32::from(MASKED) } else { 0 };
        *score = mask + if index % 2 == 0 { *score } else { *score << 6 };
    }
    let (sum, sum_actual) =
        (Portable::exp_row(expected, ExpRow::U8(narrow)), B::exp_row(expected, ExpRow::U8(narrow_actual)));
    compare("exp_row 8", n, narrow, narrow_actual)?;
    compare("sum of exp_row 8", n, &[sum], &[sum_actual])?;
    let (sum, sum_actual) =
        (Portable::exp_row(expected, ExpRow::U16(wide)), B::exp_row(expected, ExpRow::U16(wide_actual)));
    compare("exp_row 16", n, wide, wide_actual)?;
    compare("sum of exp_row 16", n, &[sum], &[sum_actual])?;
    let out: [&mut [i8]; 2] = [bytemuck::cast_slice_mut(narrow), bytemuck::cast_slice_mut(narrow_actual)];
    let [out, out_actual] = out;
    for (ratio_m, ratio_shift, zero_point) in [(20_000, 14, 0), (32_767, 10, -128), (16_384, 20, 127)] {
        let scale = RowScale::new(255 * n as u32, ratio_m, ratio_shift);
        expected.fill_with(|| numbers.within(-255 * 128 * n as i32, 255 * 127 * n as i32));
        Portable::scale_row(expected, scale, zero_point, out);
        B::scale_row(expected, scale, zero_point, out_actual);
        compare("scale_row", n, out, out_actual)?;
    }
    Ok(())
}

fn norm_rows<B: Kernels>(n: usize, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    const ROWS: usize = 5;
    let mut numbers = Numbers::new(n as u64 + 2000);
    let mut arena = Arena(memory);
    let [gamma, beta] = [arena.take::<i32>(n, 0), arena.take::<i32>(n, 0)];
    let x = arena.take::<i16>(ROWS * n, 2);
    let [expected, actual] = [arena.take::<i16>(ROWS * n, 0), arena.take::<i16>(ROWS * n, 0)];
    for (case, &(magnitude, eps, rms)) in
        [(32_767, 0, false), (32_767, 1 << 40, true), (3, 1, false), (900, 1 << 57, false), (0, 0, true)]
            .iter()
            .enumerate()
    {
        x.fill_with(|| {
            if fill == Fill::Random { numbers.within(-magnitude - 1, magnitude) as i16 } else { fill.i16(&mut numbers) }
        });
        let narrow = case % 2 == 1;
        let fraction = if narrow { 8 } else { 4 };
        gamma.fill_with(|| numbers.within(-20_000, 20_000) << fraction);
        beta.fill_with(|| numbers.within(-50_000, 50_000));
        let job = NormJob { rms, eps, gamma, beta };
        for wide_input in [true, false] {
            expected.fill(0);
            actual.fill(0);
            let bytes = bytemuck::cast_slice::<i16, i8>(x).get(..ROWS * n).unwrap_or(&[]);
            let x = if wide_input { NormRow::I16(x) } else { NormRow::I8(bytes) };
            fn target(narrow: bool, out: &mut [i16]) -> NormOut<'_> {
                let n = out.len();
                if narrow { NormOut::I8(&mut bytemuck::cast_slice_mut(out)[..n]) } else { NormOut::I16(out) }
            }
            for row in 0..ROWS {
                let (mut expected, mut actual) = (target(narrow, expected), target(narrow, actual));
                let rows = (x.row(row, n), expected.row(row, n), actual.row(row, n));
                let (Some(x), Some(expected), Some(actual)) = rows else { continue };
                Portable::norm_row(&job, x, expected);
                B::norm_row(&job, x, actual);
            }
            compare("norm_row", n, expected, actual)?;
            actual.fill(0);
            B::norm_rows(&job, x, target(narrow, actual));
            compare("norm_rows", n, expected, actual)?;
        }
    }
    Ok(())
}

/// `rows, cols, gap of x, width of an output row`.
pub const TRANSPOSE_CASES: &[[usize; 4]] = &[
    [1, 1, 0, 1],
    [3, 5, 2, 16],
    [16, 16, 0, 16],
    [18, 35, 1, 20],
    [17, 9, 3, 32],
    [50, 16, 32, 64],
    [31, 33, 1, 31],
    [4, 64, 0, 7],
    [3, 16, 9, 3],
    [1, 16, 0, 1],
    [4, 16, 1, 4],
    [2, 5, 2, 2],
    [3, 16, 0, 4],
];

/// Compares one transposition.
///
/// # Errors
/// [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn transpose<B: Kernels>(index: usize, case: &[usize; 4], memory: &mut [u8]) -> Result<(), Difference> {
    let [rows, cols, gap, width] = *case;
    let mut numbers = Numbers::new(index as u64);
    let mut arena = Arena(memory);
    let x = arena.take::<i8>(rows * (cols + gap), 1);
    x.fill_with(|| numbers.bits() as i8);
    let [expected, actual] = [arena.take::<i8>(cols * width, 1), arena.take::<i8>(cols * width, 1)];
    expected.fill(1);
    actual.fill(2);
    Portable::transpose(x, cols + gap, rows, cols, expected, width);
    B::transpose(x, cols + gap, rows, cols, actual, width);
    compare("transpose", index, expected, actual)
}

/// Attention of query rows of one head.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCase {
    /// Query rows, keys, width of a key, width of a value.
    pub size: [usize; 4],
    /// Elements between rows beyond their width: of `q`, `k`, `v` and the output.
    pub gaps: [usize; 4],
    /// Strides of the biases there are: between rows and between keys.
    pub biases: [Option<[usize; 2]>; 2],
    /// 16-bit exponentials.
    pub wide_exp: bool,
    /// Left shift of products of queries and keys.
    pub acc_shift: u32,
    /// Bytes that `q`, `k` and `v` lie beyond an address divisible by 16.
    pub skew: usize,
}

impl AttentionCase {
    const fn new(size: [usize; 4], wide_exp: bool) -> Self {
        Self { size, gaps: [0; 4], biases: [None; 2], wide_exp, acc_shift: 3, skew: 1 }
    }
}

/// Attention that every instruction set is checked with, where it takes whole heads.
pub const ATTENTION_CASES: &[AttentionCase] = &[
    AttentionCase::new([1, 1, 1, 1], false),
    AttentionCase::new([1, 2, 3, 5], true),
    AttentionCase::new([7, 16, 16, 16], false),
    AttentionCase { gaps: [3, 1, 2, 5], biases: [Some([17, 1]), None], ..AttentionCase::new([6, 17, 18, 17], false) },
    AttentionCase { gaps: [32; 4], biases: [Some([0, 1]), Some([1, 0])], ..AttentionCase::new([5, 33, 16, 16], true) },
    AttentionCase { biases: [Some([3, 3]), Some([40, 2])], ..AttentionCase::new([9, 20, 7, 33], false) },
    AttentionCase::new([13, 49, 32, 32], true),
    AttentionCase { acc_shift: 0, ..AttentionCase::new([20, 49, 32, 33], false) },
    AttentionCase { gaps: [1; 4], ..AttentionCase::new([14, 50, 65, 20], false) },
    AttentionCase { gaps: [0, 24, 24, 0], skew: 0, ..AttentionCase::new([2, 21, 8, 8], false) },
    AttentionCase { gaps: [0, 24, 24, 8], skew: 0, acc_shift: 0, ..AttentionCase::new([2, 66, 8, 8], true) },
    AttentionCase { gaps: [8, 0, 4, 0], skew: 0, acc_shift: 8, ..AttentionCase::new([1, 3, 8, 12], false) },
    AttentionCase { gaps: [0, 3, 1, 0], ..AttentionCase::new([3, 7, 8, 8], true) },
];

/// Compares attention with its parts, each portable: that of many rows where `B` takes the job, and that of a few.
///
/// # Errors
/// [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn attention<B: Kernels>(
    index: usize,
    case: &AttentionCase,
    fill: Fill,
    memory: &mut [u8],
) -> Result<(), Difference> {
    let AttentionCase { size: [rows, n_k, head_dim, v_dim], gaps, biases, wide_exp, acc_shift, skew } = *case;
    let mut numbers = Numbers::new(index as u64 + 3000);
    let mut arena = Arena(memory);
    let [q_stride, k_stride, v_stride, out_stride] =
        [head_dim + gaps[0], head_dim + gaps[1], v_dim + gaps[2], v_dim + gaps[3]];
    let [q, k, v] = [rows * q_stride, n_k * k_stride, n_k * v_stride].map(|len| {
        let values = arena.take::<i8>(len, skew);
        values.fill_with(|| fill.i8(&mut numbers));
        &*values
    });
    let biases = biases.map(|strides| {
        let [row, column] = strides?;
        let values = arena.take::<i16>((rows - 1) * row + (n_k - 1) * column + 1, 0);
        values.fill_with(|| if numbers.bits().is_multiple_of(8) { MASKED } else { numbers.within(-2000, 2000) as i16 });
        Some(ScoreBias { values, row, column })
    });
    // Scores within some twenty octaves.
    let multiplier = (1i64 << (32 - acc_shift)) / (16 * head_dim as i64);
    let scale = ScoreScale { acc_shift, multiplier: multiplier.min(i64::from(i32::MAX)) as i32 };
    let (ratio_m, ratio_shift, zero_point) = (30_000, 14, -3);
    let shape = [rows, n_k, head_dim, v_dim];
    let strides = [q_stride, k_stride, v_stride, out_stride];
    let job = AttentionJob {
        q,
        k,
        v,
        rows,
        n_k,
        head_dim,
        v_dim,
        q_stride,
        k_stride,
        v_stride,
        out_stride,
        scale,
        biases,
        wide_exp,
        ratio_m,
        ratio_shift,
        zero_point,
    };
    let [expected, actual] = [arena.take::<i8>(rows * out_stride, 1), arena.take::<i8>(rows * out_stride, 1)];
    expected.fill(1);
    actual.fill(1);
    if B::attention(&job, actual) {
        attention_by_parts(&job, shape, strides, expected, &mut arena);
        compare("attention", index, expected, actual)?;
    }
    let job = AttentionJob { biases: [None; 2], ..job };
    [&mut *expected, &mut *actual].into_iter().for_each(|out| out.fill(1));
    attention_by_parts(&job, shape, strides, expected, &mut arena);
    let scratch = arena.take::<u8>(attend_scratch_bytes(n_k, head_dim, v_dim, wide_exp), 0);
    B::attend(&job, actual, scratch);
    compare("attention of rows that share a cache", index, expected, actual)
}

fn attention_by_parts(
    job: &AttentionJob<'_>,
    [rows, n_k, head_dim, v_dim]: [usize; 4],
    [q_stride, k_stride, v_stride, out_stride]: [usize; 4],
    out: &mut [i8],
    arena: &mut Arena<'_>,
) {
    let scores = arena.take::<i32>(n_k, 0);
    let (exps, wide) = (arena.take::<u8>(n_k, 0), arena.take::<u16>(n_k, 0));
    let transposed = arena.take::<i8>(n_k * v_dim, 0);
    let acc = arena.take::<i32>(v_dim, 0);
    Portable::transpose(job.v, v_stride, n_k, v_dim, transposed, n_k);
    for row in 0..rows {
        let q = &job.q[row * q_stride..];
        let one = DotJob { rows: 1, cols: n_k, k: head_dim, x_stride: q_stride, y_stride: k_stride, out_stride: n_k };
        Portable::scores(&one, job.scale, q, job.k, scores, &mut []);
        for (key, score) in scores.iter_mut().enumerate() {
            for bias in job.biases.iter().flatten() {
                *score += i32::from(bias.values[row * bias.row + key * bias.column]);
            }
        }
        let one = DotJob { rows: 1, cols: v_dim, k: n_k, x_stride: n_k, y_stride: n_k, out_stride: v_dim };
        let sum = if job.wide_exp {
            let sum = Portable::exp_row(scores, ExpRow::U16(wide));
            Portable::dot_u16(&one, wide, transposed, acc, &mut []);
            sum
        } else {
            let sum = Portable::exp_row(scores, ExpRow::U8(exps));
            Portable::dot_u8(&one, exps, transposed, acc, &mut []);
            sum
        };
        let scale = RowScale::new(sum, job.ratio_m, job.ratio_shift);
        Portable::scale_row(acc, scale, job.zero_point, &mut out[row * out_stride..][..v_dim]);
    }
}

/// Windows over an image to compare.
#[derive(Clone, Copy, Debug)]
pub struct WindowCase {
    /// Pixels and channels.
    pub size: [usize; 2],
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// First row and column inside the image, and how many rows and columns are missing at the other end.
    pub missing: [[usize; 2]; 2],
    /// Columns of the image from a window to the next, and from a tap to the next.
    pub steps: [usize; 2],
    /// Channels of the image beyond those of the windows.
    pub gap: usize,
    /// The columns of a channel are neighbours, not the channels of a column.
    pub planar: bool,
    /// Left shift of the sums.
    pub acc_shift: u32,
}

impl WindowCase {
    const fn new(size: [usize; 2], kernel: [usize; 2]) -> Self {
        Self { size, kernel, missing: [[0; 2]; 2], steps: [1, 1], gap: 0, planar: false, acc_shift: 0 }
    }
}

/// Windows that every instruction set is checked with.
pub const WINDOW_CASES: &[WindowCase] = &[
    WindowCase::new([1, 1], [1, 1]),
    WindowCase::new([3, 3], [3, 3]),
    WindowCase::new([4, 16], [3, 3]),
    WindowCase { missing: [[1, 1], [0, 0]], ..WindowCase::new([1, 24], [3, 3]) },
    WindowCase { missing: [[0, 0], [1, 2]], acc_shift: 3, ..WindowCase::new([1, 33], [5, 5]) },
    WindowCase { steps: [2, 1], ..WindowCase::new([5, 20], [3, 3]) },
    WindowCase { steps: [1, 2], gap: 3, ..WindowCase::new([2, 17], [2, 3]) },
    WindowCase { planar: true, missing: [[0, 2], [1, 0]], ..WindowCase::new([2, 18], [3, 5]) },
    WindowCase { missing: [[2, 0], [1, 0]], ..WindowCase::new([2, 5], [3, 1]) },
    WindowCase { steps: [3, 1], ..WindowCase::new([2, 8], [7, 7]) },
    WindowCase { acc_shift: 5, ..WindowCase::new([3, 12], [1, 4]) },
];

/// Compares a depthwise convolution and the pools over the same windows.
///
/// # Errors
/// [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn windows<B: Kernels>(index: usize, case: &WindowCase, fill: Fill, memory: &mut [u8]) -> Result<(), Difference> {
    let WindowCase { size: [pixels, channels], kernel, missing: [first, last], steps, gap, planar, acc_shift } = *case;
    let mut numbers = Numbers::new(index as u64 + 4000);
    let mut arena = Arena(memory);
    let inside = [0, 1].map(|axis| kernel[axis] - first[axis] - last[axis]);
    let columns = (pixels - 1) * steps[0] + (kernel[1] - 1) * steps[1] + 1;
    // Strides of columns, rows and channels.
    let [column, row, channel_stride] =
        if planar { [1, columns, kernel[0] * columns + gap] } else { [channels + gap, columns * (channels + gap), 1] };
    let len = if planar { channels * channel_stride } else { kernel[0] * row };
    let x = arena.take::<i8>(len, 1);
    x.fill_with(|| fill.i8(&mut numbers));
    let wide = arena.take::<i16>(len, 2);
    wide.fill_with(|| fill.i16(&mut numbers));
    let taps = kernel[0] * kernel[1];
    let weights = arena.take::<i8>(taps * channels, 1);
    weights.fill_with(|| fill.i8(&mut numbers));
    let padded = channels.next_multiple_of(4);
    let (bias, multipliers) = (arena.take::<i32>(padded, 0), arena.take::<i32>(padded, 0));
    bias.fill_with(|| numbers.within(-10_000, 10_000));
    let typical = typical_multiplier(taps, true) >> acc_shift;
    multipliers.fill_with(|| numbers.within(typical / 2, typical));
    // For values 256 times as large.
    let small = arena.take::<i32>(padded, 0);
    small.iter_mut().zip(&*multipliers).for_each(|(small, multiplier)| *small = multiplier >> 8);
    let windows = Windows {
        pixels,
        channels,
        kernel,
        first,
        inside,
        strides: [row, steps[1] * column],
        pixel_stride: steps[0] * column,
        channel_stride,
    };
    let (x, wide, weights, bias, multipliers, small) = (&*x, &*wide, &*weights, &*bias, &*multipliers, &*small);
    let [expected, actual] = [arena.take::<i16>(pixels * channels, 0), arena.take::<i16>(pixels * channels, 0)];
    for (pad_value, zero_point) in [(-128, -128), (127, 127), (3, 0)] {
        let job = DepthwiseJob { windows, pad_value, weights, bias, multipliers, acc_shift, zero_point };
        Portable::depthwise(&job, x, DepthwiseOut::I16(expected));
        B::depthwise(&job, x, DepthwiseOut::I16(actual));
        compare("depthwise", index, expected, actual)?;
        let wide_job = DepthwiseJob { multipliers: small, ..job };
        Portable::depthwise_wide(&wide_job, wide, DepthwiseOut::I16(expected));
        B::depthwise_wide(&wide_job, wide, DepthwiseOut::I16(actual));
        compare("depthwise of 16 bits", index, expected, actual)?;
        let bytes = |out| &mut bytemuck::cast_slice_mut::<i16, i8>(out)[1..][..pixels * channels];
        let (expected, actual) = (bytes(expected), bytes(actual));
        Portable::depthwise(&job, x, DepthwiseOut::I8(expected));
        B::depthwise(&job, x, DepthwiseOut::I8(actual));
        compare("depthwise to 8 bits", index, expected, actual)?;
        let count = (inside[0] * inside[1]).max(1) as i64;
        let multiplier = ((1i64 << (31 - acc_shift)) / count) as i32;
        for mean in [None, Some(PoolMean { zero_in: pad_value, acc_shift, multiplier, zero_point })] {
            let job = PoolJob { windows, mean };
            expected.fill(1);
            actual.fill(2);
            Portable::pool(&job, x, expected);
            B::pool(&job, x, actual);
            compare("pool", index, expected, actual)?;
        }
    }
    Ok(())
}

/// Runs the whole table; returns the number of comparisons. `memory` has [`TABLE_BYTES`].
///
/// # Errors
/// The first [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn check<B: Kernels>(memory: &mut [u8]) -> Result<usize, Difference> {
    let mut count = 0;
    for (index, case) in LINEAR_CASES.iter().enumerate() {
        linear::<B>(index, case, memory)?;
        count += 1;
    }
    for fill in [Fill::Random, Fill::Min, Fill::Max] {
        for (index, case) in DOT_CASES.iter().enumerate() {
            dots::<B>(index, case, fill, memory)?;
            count += 1;
        }
        for (index, case) in ATTENTION_CASES.iter().enumerate() {
            attention::<B>(index, case, fill, memory)?;
            count += 1;
        }
        for (index, case) in WINDOW_CASES.iter().enumerate() {
            windows::<B>(index, case, fill, memory)?;
            count += 1;
        }
        for &n in ROW_CASES {
            rows::<B>(n, fill, memory)?;
            count += 1;
        }
    }
    for (index, case) in TRANSPOSE_CASES.iter().enumerate() {
        transpose::<B>(index, case, memory)?;
        count += 1;
    }
    Ok(count)
}

/// Larger shapes: many rows, long sums, rows beyond the buffers of a kernel.
pub const LARGE_LINEAR_CASES: &[LinearCase] = &[
    LinearCase::new([270, 24, 50], I8, Output::I8),
    LinearCase::new([197, 192, 100], I8, Output::Lut),
    LinearCase { gaps: [3, 5], skew: 1, ..LinearCase::new([31, 770, 72], I8, Output::Residual(4)) },
    LinearCase::new([20, 2100, 40], I8, Output::I16),
    LinearCase { acc_shift: 5, gaps: [0, 3], ..LinearCase::new([20, 64, 68], I8, Output::I8) },
    LinearCase { acc_shift: 1, ..LinearCase::new([26, 30, 96], I8, Output::I16) },
    LinearCase { acc_shift: 2, ..LinearCase::new([25, 41, 64], I8, Output::Residual(3)) },
    LinearCase::new([40, 515, 33], I4, Output::Lut),
    LinearCase::new([40, 130, 36], I3, Output::I8),
    LinearCase { gaps: [3, 1], ..LinearCase::new([37, 515, 33], I2, Output::I16) },
    LinearCase { fill: Fill::Min, ..LinearCase::new([33, 1040, 36], I8, Output::I16) },
];

/// Larger windows: many channels, more taps than a kernel keeps.
pub const LARGE_WINDOW_CASES: &[WindowCase] = &[
    WindowCase { steps: [2, 1], ..WindowCase::new([20, 100], [5, 5]) },
    WindowCase { acc_shift: 2, ..WindowCase::new([14, 96], [3, 3]) },
    WindowCase { missing: [[1, 0], [0, 1]], gap: 7, ..WindowCase::new([1, 200], [9, 9]) },
    WindowCase::new([3, 40], [8, 8]),
];

/// Larger heads, the last ones beyond what a kernel keeps on its stack.
pub const LARGE_ATTENTION_CASES: &[AttentionCase] = &[
    AttentionCase { gaps: [512, 512, 512, 128], acc_shift: 0, ..AttentionCase::new([197, 197, 64, 64], false) },
    AttentionCase { acc_shift: 0, ..AttentionCase::new([32, 130, 40, 96], true) },
    AttentionCase { gaps: [512, 512, 512, 128], ..AttentionCase::new([31, 197, 64, 64], true) },
    AttentionCase::new([7, 257, 64, 64], true),
    AttentionCase::new([8, 514, 64, 64], true),
    AttentionCase::new([11, 501, 64, 48], false),
    AttentionCase::new([3, 514, 20, 80], true),
    AttentionCase::new([7, 1030, 16, 16], false),
    AttentionCase::new([5, 40, 300, 300], false),
];

/// Bytes of memory that the larger shapes need.
pub const LARGE_BYTES: usize = 4 << 20;

/// Runs the larger shapes; `memory` has [`LARGE_BYTES`].
///
/// # Errors
/// The first [`Difference`].
///
/// # Panics
/// When `memory` is too small.
pub fn check_large<B: Kernels>(memory: &mut [u8]) -> Result<(), Difference> {
    for (index, case) in LARGE_LINEAR_CASES.iter().enumerate() {
        linear::<B>(1000 + index, case, memory)?;
    }
    for (index, case) in LARGE_ATTENTION_CASES.iter().enumerate() {
        attention::<B>(1000 + index, case, Fill::Random, memory)?;
    }
    for (index, case) in LARGE_WINDOW_CASES.iter().enumerate() {
        windows::<B>(1000 + index, case, Fill::Random, memory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_the_memory_it_names() {
        let mut memory = std::vec![0u8; TABLE_BYTES];
        assert!(check::<Portable>(&mut memory).is_ok());
    }
}
