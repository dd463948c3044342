//! What is proven of an operator before it runs, and what can be wrong with it.

use crate::format::CertRecord;
use core::fmt;

/// Why an operator record cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OpFault {
    /// The kind is unknown to this reader or left out of its operator table.
    Kind,
    /// The parameters do not decode.
    Params,
    /// An operand is missing, of the wrong type or size.
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
    /// It reads bytes that nothing writes, or that something else has overwritten.
    Unwritten,
    /// The operator does not fit into its chain: another number of rows, or rows that are not in memory.
    Chain,
}

impl fmt::Display for OpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "the operator is not known or not linked in",
            Self::Params => "the parameters do not decode",
            Self::Operand => "an operand is missing, or of the wrong type or size",
            Self::Blob => "a weight blob is missing or of the wrong size",
            Self::Range => "a parameter is outside its range",
            Self::Alias => "output and inputs overlap",
            Self::Scratch => "the scratch area is too small",
            Self::Overflow => "an intermediate value could overflow",
            Self::Unwritten => "it reads bytes that nothing has written",
            Self::Chain => "it does not fit into its chain of row blocks",
        })
    }
}

/// Why a run stopped: the data, not the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RunFault {
    /// An index (a token id) is not in `-limit..limit`; negative ones count from the end.
    Index {
        /// The value met.
        value: i32,
        /// Rows of the table: one more than the maximum.
        limit: u32,
    },
    /// The run has more rows than positions are left in the state; nothing was written.
    Full {
        /// Positions the state has room for.
        capacity: u32,
    },
    /// A run takes at least one row, and no more than this.
    Rows {
        /// Rows of a run at most.
        limit: u32,
    },
    /// An operand is out of bounds; impossible unless the file changed after it was opened.
    Memory,
}

impl core::error::Error for RunFault {}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index { value, limit } => write!(f, "index {value} is not in 0..{limit}"),
            Self::Full { capacity } => write!(f, "no position is left: the state has room for {capacity}"),
            Self::Rows { limit } => write!(f, "a run takes 1 to {limit} rows"),
            Self::Memory => f.write_str("an operand is not where the model says"),
        }
    }
}

/// `Ok` when `condition` holds, else `fault`.
pub(crate) fn require(condition: bool, fault: OpFault) -> Result<(), OpFault> {
    if condition { Ok(()) } else { Err(fault) }
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
    /// Minimum and maximum accumulator value, bias and partial sums included.
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
    /// Maximum row sum: of exponentials, or the scaled variance of a normalization. The operators check themselves
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
    pub(super) fn is_covered_by(&self, record: &CertRecord) -> bool {
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
