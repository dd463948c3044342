//! The operators: each file holds one operator's parameters, the checks that make it safe to run, and the run itself.
//!
//! An operator knows shapes and walks rows; the arithmetic is in [`crate::kernels`]. To add one: a file here with its
//! [`Operator`] implementation, its module line below, a line in `operators!` in `registry.rs`, its worst cases in
//! `worst_case`; the compiler names what is missing.

use crate::format::Word;
use crate::kernels::Kernels;
use core::ops::Range;

pub mod add;
pub mod attention;
pub mod conv2d;
pub mod conv2d_i16;
pub mod copy;
pub mod depthwise;
pub mod depthwise_i16;
#[cfg(feature = "std")]
mod divide;
pub mod dyadic_requant;
pub mod embedding;
mod entry;
mod exps;
pub mod gather;
pub mod halves;
pub mod i_layer_norm;
pub mod kv_append;
pub mod layer_norm;
pub mod linear;
pub mod linear_i16;
pub mod lmul_linear;
pub mod lookup_linear;
pub mod lut;
pub mod lut_i16;
pub mod matmul;
pub mod matmul_i16;
pub mod max_pool_i16;
mod memory;
pub mod mul;
mod operands;
pub mod pool;
pub mod positions;
mod proof;
pub mod reduce_mean;
mod registry;
pub mod requant;
pub mod rope;
mod rows;
pub mod shiftgelu;
pub mod shiftmax;
pub mod softmax;
mod strides;
#[cfg(test)]
pub(crate) mod testing;
mod wide;
#[cfg(test)]
mod worst_case;

pub(crate) use entry::Parts;
pub use entry::{Entry, Functions, Requirements, STEP_WORK};
pub(crate) use exps::dot_limited;
pub(crate) use memory::Areas;
pub use memory::{Inputs, Memory, Step};
pub use operands::Operands;
pub use proof::{OpFault, Proof, RunFault};
pub(crate) use proof::{require, signed_bits};
pub use registry::{Op, OpKind, OpTable};
pub use rows::{Division, RowAccess, RowRead};
use strides::stretches;
pub use strides::{Dims, Extent, Strides, Walk};
pub(crate) use strides::{is_injective, product};

/// Product of `factors`, for [`Operator::piece_work`]; `u32::MAX` when it is greater.
// Out of line: every operator has one or two, and none runs often.
#[inline(never)]
pub(crate) fn work(factors: &[u32]) -> u32 {
    factors.iter().fold(1u32, |work, &factor| work.saturating_mul(factor))
}

/// One operator: its parameters implement this.
pub trait Operator: Word + Sync {
    /// Proves that a run stays inside its operands for any data, and bounds its intermediate values from the weights.
    ///
    /// # Errors
    /// The first [`OpFault`] found.
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault>;

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

    /// Pieces that kernels take at once for speed; any other number gives the same bytes.
    fn block(&self) -> u32 {
        1
    }

    /// Work of a piece at most, in multiplications with accumulation of a dense layer: what takes a Cortex-M4 as many
    /// instructions. See [`STEP_WORK`].
    fn piece_work(&self) -> u32;

    /// How many elements of the output are written without a gap from `element` on, 0 where it is not written; more than
    /// there are stands for all. Most operators write all of it: their check compares the sizes.
    fn written_from(&self, element: u32) -> u32 {
        u32::MAX - element
    }

    /// Parts of a run of the whole operator, where steps have to be finer than a block of pieces; 0: none. Parts run one
    /// after the other, each over the scratch that the one before has left; a chain has none.
    fn parts(&self) -> u32 {
        0
    }

    /// Runs the parts `parts`, of `0..self.parts()`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn run_parts<B: Kernels>(&self, memory: &mut Memory<'_>, parts: Range<u32>) -> Result<(), RunFault> {
        let _ = (memory, parts);
        Err(RunFault::Memory)
    }

    /// Work of a part at most, in the unit of [`piece_work`](Self::piece_work).
    fn part_work(&self) -> u32 {
        0
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
