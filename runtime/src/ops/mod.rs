//! The operators: each file holds one operator's parameters, the checks that make it safe to run, and the run itself.
//!
//! An operator knows shapes and walks rows; the arithmetic is in [`crate::kernels`]. To add one: a file here with its
//! [`Operator`] implementation, a line in [`operators!`], and nothing else in the runtime.

use crate::format::{Blob, CertRecord, MAX_INPUTS, OpRecord, Place, ReadWords, TensorRecord, Word};
use crate::kernels::{DotJob, Kernels};
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::fmt;
use core::ops::Range;

pub mod add;
pub mod attention;
pub mod conv2d;
pub mod copy;
pub mod depthwise;
#[cfg(feature = "std")]
mod divide;
pub mod dyadic_requant;
#[cfg(test)]
mod extremes;
pub mod gather;
pub mod i_layer_norm;
pub mod layer_norm;
pub mod linear;
pub mod lut;
pub mod matmul;
mod memory;
pub mod mul;
pub mod pool;
pub mod reduce_mean;
pub mod requant;
pub mod shiftgelu;
pub mod shiftmax;
pub mod softmax;
mod strides;
#[cfg(test)]
pub(crate) mod testing;
mod wide;

pub use memory::{Inputs, Memory};
pub use strides::{Dims, Extent, Strides, Walk};

/// Declares the kinds, in the order of their codes.
macro_rules! operators {
    ($($code:literal $kind:ident $name:literal $params:ty;)*) => {
        /// Which operator a record holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u16)]
        pub enum OpKind { $(
            #[doc = $name]
            $kind = $code,
        )* }

        impl OpKind {
            /// All kinds.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$kind),*];

            /// The kind with this code.
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(OpKind::$kind),)* _ => None }
            }

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(OpKind::$kind => $name,)* }
            }

            /// Path of its parameter type in this module, for generated code.
            pub const fn type_path(self) -> &'static str {
                match self { $(OpKind::$kind => stringify!($params),)* }
            }
        }

        /// An operator with its parameters, for tools that look into a model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($kind($params),)* }

        impl Op {
            /// Decodes the parameters of an operator of this kind.
            pub fn decode(kind: OpKind, words: &[u8]) -> Option<Self> {
                match kind { $(OpKind::$kind => Some(Op::$kind(decode(words)?)),)* }
            }

            /// Which operator this is.
            pub fn kind(&self) -> OpKind {
                match self { $(Op::$kind(_) => OpKind::$kind,)* }
            }

            /// Appends the parameters.
            pub fn encode(&self, out: &mut dyn crate::format::WriteWords) {
                match self { $(Op::$kind(params) => params.write(out),)* }
            }

            /// Calls `visit` for every blob among the parameters.
            pub fn each_blob(&mut self, visit: &mut dyn FnMut(&mut Blob)) {
                match self { $(Op::$kind(params) => params.each_blob(visit),)* }
            }

            /// Multiplications with accumulation in one run.
            pub fn macs(&self) -> u64 {
                match self { $(Op::$kind(params) => params.macs(),)* }
            }

            /// Bytes of scratch memory one run needs.
            pub fn scratch_bytes(&self) -> u32 {
                match self { $(Op::$kind(params) => params.scratch_bytes(),)* }
            }

            /// Which input may lie in the same memory as the output.
            pub fn in_place(&self) -> Option<usize> {
                match self { $(Op::$kind(params) => params.in_place(),)* }
            }

            /// Pieces of work a run can be divided into.
            pub fn pieces(&self) -> u32 {
                match self { $(Op::$kind(params) => params.pieces(),)* }
            }

            /// Pieces that belong together.
            pub fn step(&self) -> u32 {
                match self { $(Op::$kind(params) => params.step(),)* }
            }

            /// What its rows read and write, where its pieces are rows.
            pub fn row_access(&self) -> Option<RowAccess> {
                match self { $(Op::$kind(params) => params.row_access(),)* }
            }

            /// Whether the whole output is written when this operator has run.
            pub fn completes_output(&self) -> bool {
                match self { $(Op::$kind(params) => params.completes_output(),)* }
            }
        }

        impl<B: Kernels> OpTable<B> {
            /// Every operator. A firmware that must be small names the ones its model uses instead.
            pub const ALL: &'static [Entry<B>] = &[$(Entry::of::<$params>(OpKind::$kind),)*];
        }
    };
}

operators! {
    1 Linear "linear" linear::Linear;
    2 Conv2d "conv2d" conv2d::Conv2d;
    3 DepthwiseConv2d "depthwise_conv2d" depthwise::DepthwiseConv2d;
    4 MatMul "matmul" matmul::MatMul;
    5 Attention "attention" attention::Attention;
    6 AttentionScores "attention_scores" attention::AttentionScores;
    7 AttentionExp "attention_exp" attention::AttentionExp;
    8 AttentionValues "attention_values" attention::AttentionValues;
    9 Softmax "softmax" softmax::Softmax;
    10 LayerNorm "layer_norm" layer_norm::LayerNorm;
    11 Add "add" add::Add;
    12 Mul "mul" mul::Mul;
    13 Lut "lut" lut::Lut;
    14 Requant "requant" requant::Requant;
    15 Copy "copy" copy::Copy;
    16 Gather "gather" gather::Gather;
    17 ReduceMean "reduce_mean" reduce_mean::ReduceMean;
    18 Pool2d "pool2d" pool::Pool2d;
    19 DyadicRequant "dyadic_requant" dyadic_requant::DyadicRequant;
    20 Shiftmax "shiftmax" shiftmax::Shiftmax;
    21 ShiftGelu "shiftgelu" shiftgelu::ShiftGelu;
    22 ILayerNorm "i_layer_norm" i_layer_norm::ILayerNorm;
}

fn decode<O: Word>(words: &[u8]) -> Option<O> {
    // Once for all words.
    if words.len() != O::WORDS * size_of::<u32>() {
        return None;
    }
    O::read(&mut ReadWords::new(words))
}

/// One operator: its parameters implement this.
pub trait Operator: Word + Sync {
    /// Proves that a run stays inside its operands for any data, and bounds its intermediate values from the weights.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    fn check(&self, io: &Io<'_>) -> Result<Proof, OpFault>;

    /// Runs the pieces `pieces` (a part of `0..self.pieces()`).
    ///
    /// # Errors
    /// [`RunFault`] where the data itself is out of range.
    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault>;

    /// Multiplications with accumulation in one run.
    fn macs(&self) -> u64 {
        0
    }

    /// Bytes of scratch memory one run needs.
    fn scratch_bytes(&self) -> u32 {
        0
    }

    /// Which input may lie in the same memory as the output.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Pieces of work a run can be divided into.
    fn pieces(&self) -> u32 {
        1
    }

    /// Pieces that are done at once for speed; any other number gives the same bytes.
    fn step(&self) -> u32 {
        1
    }

    /// What each piece reads and writes, where pieces are rows and the operator can run in a chain, see
    /// [`crate::format::OpRecord::chained`].
    fn row_access(&self) -> Option<RowAccess> {
        None
    }

    /// How pieces can be divided among threads, where each writes only elements of its own.
    fn division(&self) -> Option<Division> {
        None
    }

    /// Whether the whole output is written when this operator has run; `false` where a later one writes the rest.
    fn completes_output(&self) -> bool {
        true
    }
}

/// How pieces of work are divided among threads: they write rows of the output one after the other, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Elements of a row.
    pub out_row: u32,
    /// Rows of `group` pieces, of which each but the last writes `rows`.
    pub group_rows: u32,
    /// Pieces of a group.
    pub group: u32,
    /// Rows that a piece writes.
    pub rows: u32,
    /// Work of a piece, in multiplications: the time it takes beside that of a dense layer.
    pub work: u64,
}

impl Division {
    /// A row for each piece.
    pub const fn rows(out_row: u32, work: u64) -> Self {
        Self { out_row, group_rows: 1, group: 1, rows: 1, work }
    }

    /// Rows that the pieces before `piece` write.
    pub fn rows_before(&self, piece: u32) -> u64 {
        let (groups, rest) = (piece.checked_div(self.group).unwrap_or(0), piece.checked_rem(self.group).unwrap_or(0));
        let rest = u64::from(rest) * u64::from(self.rows);
        u64::from(groups) * u64::from(self.group_rows) + rest.min(self.group_rows.into())
    }
}

/// What the rows of an operator read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAccess {
    /// Per input.
    pub inputs: [RowRead; MAX_INPUTS],
    /// First element that row 0 writes.
    pub out_first: u32,
    /// Elements that each row writes, one row after the other.
    pub out_row: u32,
}

impl RowAccess {
    /// Rows of `out_row` elements from the start of the output.
    pub const fn rows(inputs: [RowRead; MAX_INPUTS], out_row: u32) -> Self {
        Self { inputs, out_first: 0, out_row }
    }
}

/// What a row of an operator reads of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowRead {
    /// Possibly all of it.
    Whole,
    /// The same row, of this many elements.
    Row(u32),
    /// Nothing before element `row / rows * step - back`: windows of a convolution.
    From {
        /// Rows that start at the same element.
        rows: u32,
        /// Elements between them and the next.
        step: u32,
        /// Elements before that are read too.
        back: u32,
    },
}

impl RowRead {
    /// No input is read by rows.
    pub const NONE: [RowRead; MAX_INPUTS] = [RowRead::Whole; MAX_INPUTS];

    /// Only input 0 is read by rows, of `width` elements.
    pub const fn first(width: u32) -> [RowRead; MAX_INPUTS] {
        let [_, rest @ ..] = Self::NONE;
        let [b, c, d, e, f] = rest;
        [RowRead::Row(width), b, c, d, e, f]
    }

    /// First element that row `row` or a later one reads.
    pub fn from(self, row: u32) -> u64 {
        let at = |row: u32, step: u32| u64::from(row).saturating_mul(u64::from(step));
        match self {
            Self::Whole => 0,
            Self::Row(width) => at(row, width),
            Self::From { rows, step, back } => {
                at(row.checked_div(rows).unwrap_or(0), step).saturating_sub(u64::from(back))
            }
        }
    }
}

/// Why an operator record cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum OpFault {
    /// The kind is unknown to this reader or left out of its operator table.
    Kind,
    /// The parameters do not decode.
    Params,
    /// An operand is missing, of the wrong type or too small.
    Operand,
    /// A blob of weights is missing, of the wrong size or out of range.
    Blob,
    /// A parameter is outside its admitted range.
    Range,
    /// Output and inputs overlap in a way the operator does not admit.
    Alias,
    /// The scratch area is too small or out of range.
    Scratch,
    /// An intermediate value could overflow: the certificate does not hold.
    Overflow,
    /// The operator does not fit into its chain: another number of rows, or rows that are not in memory.
    Chain,
}

impl fmt::Display for OpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "the operator is not known or not linked in",
            Self::Params => "the parameters do not decode",
            Self::Operand => "an operand is missing, mistyped or too small",
            Self::Blob => "a weight blob is missing or of the wrong size",
            Self::Range => "a parameter is outside its range",
            Self::Alias => "output and inputs overlap",
            Self::Scratch => "the scratch area is too small",
            Self::Overflow => "an intermediate value could overflow",
            Self::Chain => "it does not fit into its chain of row blocks",
        })
    }
}

/// Why a run stopped: the data, not the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RunFault {
    /// An index (a token id) is not in `0..limit`.
    Index {
        /// The value met.
        value: i32,
        /// One more than the greatest admitted value.
        limit: u32,
    },
    /// An operand could not be had although the model was checked: memory was exchanged in between.
    Memory,
}

impl core::error::Error for RunFault {}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index { value, limit } => write!(f, "index {value} is not in 0..{limit}"),
            Self::Memory => f.write_str("an operand is not where the model says"),
        }
    }
}

/// The operands of one operator, as the check sees them.
pub struct Io<'m> {
    /// Operator record.
    pub record: OpRecord,
    /// All tensor records, encoded.
    pub tensors: &'m [u8],
    /// The `Weights` section.
    pub weights: &'m [u8],
}

impl<'m> Io<'m> {
    /// The record of tensor `index`.
    pub fn tensor(tensors: &[u8], index: u16) -> Option<TensorRecord> {
        TensorRecord::decode(tensors.chunks_exact(TensorRecord::BYTES).nth(usize::from(index))?)
    }

    /// Input `index`, where there is one.
    pub fn input(&self, index: usize) -> Option<TensorRecord> {
        Self::tensor(self.tensors, *self.record.inputs.get(index)?)
    }

    /// The output.
    ///
    /// # Errors
    /// [`OpFault::Operand`] when it is missing.
    pub fn output(&self) -> Result<TensorRecord, OpFault> {
        Self::tensor(self.tensors, self.record.output).ok_or(OpFault::Operand)
    }

    /// Input `index` with at least `len` elements of one of the types `dtypes`.
    ///
    /// # Errors
    /// [`OpFault::Operand`] otherwise.
    pub fn need_input(&self, index: usize, dtypes: &[Dtype], len: u64) -> Result<TensorRecord, OpFault> {
        let tensor = self.input(index).ok_or(OpFault::Operand)?;
        require(dtypes.contains(&tensor.dtype) && tensor.len() as u64 >= len, OpFault::Operand)?;
        Ok(tensor)
    }

    /// The output with at least `len` elements of one of the types `dtypes`.
    ///
    /// # Errors
    /// [`OpFault::Operand`] otherwise.
    pub fn need_output(&self, dtypes: &[Dtype], len: u64) -> Result<TensorRecord, OpFault> {
        let tensor = self.output()?;
        let fits = dtypes.contains(&tensor.dtype) && tensor.len() as u64 >= len && tensor.place == Place::Arena;
        require(fits, OpFault::Operand)?;
        Ok(tensor)
    }

    /// A blob of exactly `bytes` bytes, 16-byte aligned.
    ///
    /// # Errors
    /// [`OpFault::Blob`] otherwise.
    pub fn need_blob(&self, blob: Blob, bytes: u64) -> Result<&'m [u8], OpFault> {
        let whole = u64::from(blob.bytes) == bytes && blob.offset.is_multiple_of(16);
        require(whole, OpFault::Blob)?;
        blob.of(self.weights).ok_or(OpFault::Blob)
    }
}

/// Magnitude bits of the multipliers of a requantization, and of the scale of a row.
const MULTIPLIER_BITS: u32 = 31;

/// Bounds on the intermediate values of one operator, for any input bytes, by interval arithmetic.
///
/// What the fields leave out follows from them. An accumulator that fits `i32` after its shift, times a multiplier of 31
/// bits, is below 2^62: its rounding constant fits the 64-bit product, and what is left of it after the division by 2^32
/// is at most 2^30. To that at most two values of 16 bits are added (a zero point, a residual, biases of scores).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Least and greatest accumulator value, bias and partial sums included.
    pub acc: (i64, i64),
    /// Left shift applied to the accumulator.
    pub acc_shift: u32,
    /// A second 32-bit value that is not shifted: the weighted sum of attention, the result of a normalization.
    pub second_acc: (i64, i64),
    /// Whether a multiplier in `-2^31 < m < 2^31` follows the shifted and the second value.
    pub multiplied: bool,
    /// Bits, with sign, of a product that does not follow from these, 0 where there is none.
    pub product_bits: u32,
    /// Bits, with sign, of the widest sum that is kept in 64 bits, 0 where there is none.
    pub wide_bits: u32,
    /// Greatest row sum: of exponentials, or the scaled variance of a normalization. The operators check themselves
    /// that it fits the `u32`, or the `u64`, that holds it.
    pub row_sum: u64,
}

impl Proof {
    /// An operator without arithmetic.
    pub const NONE: Proof = Proof::sums((0, 0));

    /// Bounds of sums that no multiplier follows.
    pub const fn sums(acc: (i64, i64)) -> Self {
        Self { acc, acc_shift: 0, second_acc: (0, 0), multiplied: false, product_bits: 0, wide_bits: 0, row_sum: 0 }
    }

    /// Bounds of an accumulator that is shifted left and multiplied.
    pub const fn of(acc: (i64, i64), acc_shift: u32) -> Self {
        Self { acc_shift, multiplied: true, ..Self::sums(acc) }
    }

    /// Both proofs at once.
    pub fn and(self, other: Self) -> Self {
        let hull = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        Self {
            acc: hull(self.acc, other.acc),
            acc_shift: self.acc_shift.max(other.acc_shift),
            second_acc: hull(self.second_acc, other.second_acc),
            multiplied: self.multiplied | other.multiplied,
            product_bits: self.product_bits.max(other.product_bits),
            wide_bits: self.wide_bits.max(other.wide_bits),
            row_sum: self.row_sum.max(other.row_sum),
        }
    }

    /// The record that states these bounds.
    ///
    /// # Errors
    /// [`OpFault::Overflow`] when an accumulator, or the accumulator shifted left, does not fit `i32`, or a wide sum
    /// `i64`.
    pub fn certificate(&self) -> Result<CertRecord, OpFault> {
        let narrow = |v: Option<i64>| v.and_then(|v| i32::try_from(v).ok()).ok_or(OpFault::Overflow);
        require(self.acc_shift < 31 && self.wide_bits <= 64, OpFault::Overflow)?;
        let shifted = |v: i64| v.checked_mul(1 << self.acc_shift);
        let (low, high) = (shifted(self.acc.0), shifted(self.acc.1));
        let factor = CertRecord {
            acc_min: narrow(low.map(|low| low.min(self.second_acc.0)))?,
            acc_max: narrow(high.map(|high| high.max(self.second_acc.1)))?,
            ..CertRecord::default()
        };
        let product_bits = if self.multiplied { factor.acc_bits() + MULTIPLIER_BITS } else { 0 };
        Ok(CertRecord {
            acc_min: narrow(Some(self.acc.0.min(self.second_acc.0)))?,
            acc_max: narrow(Some(self.acc.1.max(self.second_acc.1)))?,
            product_bits: product_bits.max(self.product_bits),
            wide_bits: self.wide_bits,
            sum_bits: 64 - self.row_sum.leading_zeros(),
        })
    }

    /// Whether `record` states at least these bounds.
    fn is_covered_by(&self, record: &CertRecord) -> bool {
        self.certificate().is_ok_and(|own| {
            record.acc_min <= own.acc_min
                && own.acc_max <= record.acc_max
                && own.product_bits <= record.product_bits
                && own.wide_bits <= record.wide_bits
                && own.sum_bits <= record.sum_bits
        })
    }
}

/// Bits, with sign, that hold every value of magnitude `reach` or less.
pub(crate) fn signed_bits(reach: u64) -> u32 {
    65 - reach.leading_zeros()
}

/// [`Kernels::dot_u16`] of values that count as `most`, at most 2^15 - 1, where they are greater.
///
/// No operator writes such values, but a tensor may hold any bytes; kernels may take them as signed.
pub(crate) fn dot_limited<B: Kernels>(
    job: &DotJob,
    most: u16,
    x: &[u16],
    y: &[i8],
    out: &mut [i32],
    scratch: &mut [u8],
) {
    let rows = || stepwise(x.chunks(job.x_stride.max(1))).take(job.rows);
    if rows().all(|row| row.iter().take(job.k).all(|&x| x <= most)) {
        return B::dot_u16(job, x, y, out, scratch);
    }
    for (x, out) in rows().zip(out.chunks_mut(job.out_stride.max(1))) {
        for (y, out) in stepwise(y.chunks(job.y_stride.max(1))).zip(out).take(job.cols) {
            *out = x.iter().zip(y).take(job.k).map(|(&x, &y)| i32::from(x.min(most)) * i32::from(y)).sum();
        }
    }
}

/// `Ok` when `condition` holds, else `fault`.
pub(crate) fn require(condition: bool, fault: OpFault) -> Result<(), OpFault> {
    if condition { Ok(()) } else { Err(fault) }
}

/// Product of dimensions; cannot overflow for what [`TensorRecord`] admits, saturates otherwise.
pub(crate) fn product(dims: &[u32]) -> u64 {
    dims.iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)))
}

/// Runs pieces of the operator whose parameters the words hold.
type RunFn = fn(&[u8], &mut Memory<'_>, Range<u32>) -> Result<(), RunFault>;

/// How an operator is checked and run, for one set of kernels.
pub struct Entry<B> {
    /// Which operator.
    pub kind: OpKind,
    check: fn(&[u8], &Io<'_>) -> Result<Proof, OpFault>,
    needs: fn(&[u8]) -> Option<Needs>,
    row_access: fn(&[u8]) -> Option<RowAccess>,
    run: RunFn,
    kernels: core::marker::PhantomData<fn() -> B>,
}

/// What a checked operator asks of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Bytes of scratch.
    pub scratch_bytes: u32,
    /// Input that may share the output's memory.
    pub in_place: Option<usize>,
    /// Pieces of work.
    pub pieces: u32,
    /// Pieces that are done at once.
    pub step: u32,
    /// Whether the output is whole afterwards.
    pub completes_output: bool,
}

impl<B: Kernels> Entry<B> {
    /// The entry of operator `O`.
    pub const fn of<O: Operator>(kind: OpKind) -> Self {
        Self {
            kind,
            check: check::<O>,
            needs: needs::<O>,
            row_access: row_access::<O>,
            run: run::<B, O>,
            kernels: core::marker::PhantomData,
        }
    }

    /// Decodes and checks an operator; returns the bounds of its intermediate values.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn prove(&self, words: &[u8], io: &Io<'_>) -> Result<Proof, OpFault> {
        (self.check)(words, io)
    }

    /// [`prove`](Self::prove), and `cert` must state what was proven.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    pub fn check(&self, words: &[u8], io: &Io<'_>, cert: &CertRecord) -> Result<Needs, OpFault> {
        let proof = self.prove(words, io)?;
        require(proof.is_covered_by(cert), OpFault::Overflow)?;
        self.needs(words).ok_or(OpFault::Params)
    }

    /// What the operator asks of the engine; `None` when its parameters do not decode.
    pub fn needs(&self, words: &[u8]) -> Option<Needs> {
        (self.needs)(words)
    }

    /// What the rows of the operator read and write; `None` where it has none or its parameters do not decode.
    pub fn row_access(&self, words: &[u8]) -> Option<RowAccess> {
        (self.row_access)(words)
    }

    /// Runs pieces of a checked operator, those of `pieces` that it has.
    ///
    /// # Errors
    /// [`RunFault`].
    pub fn run(&self, words: &[u8], memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        (self.run)(words, memory, pieces)
    }
}

fn check<O: Operator>(words: &[u8], io: &Io<'_>) -> Result<Proof, OpFault> {
    decode::<O>(words).ok_or(OpFault::Params)?.check(io)
}

fn needs<O: Operator>(words: &[u8]) -> Option<Needs> {
    decode::<O>(words).map(|params| needs_of(&params))
}

fn row_access<O: Operator>(words: &[u8]) -> Option<RowAccess> {
    decode::<O>(words)?.row_access()
}

fn needs_of<O: Operator>(params: &O) -> Needs {
    Needs {
        scratch_bytes: params.scratch_bytes(),
        in_place: params.in_place(),
        pieces: params.pieces(),
        step: params.step().max(1),
        completes_output: params.completes_output(),
    }
}

fn run<B: Kernels, O: Operator>(words: &[u8], memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
    // By reference: a move would put the parameters on the stack twice.
    match &decode::<O>(words) {
        Some(params) => run_here::<B, O>(params, memory, pieces.start..pieces.end.min(params.pieces())),
        None => Err(RunFault::Memory),
    }
}

#[cfg(feature = "std")]
use divide::run as run_here;

/// Runs pieces on this thread, the only one there is.
#[cfg(not(feature = "std"))]
fn run_here<B: Kernels, O: Operator>(op: &O, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
    op.run::<B>(memory, pieces)
}

/// The operators a session can run.
pub struct OpTable<B>(core::marker::PhantomData<fn() -> B>);
