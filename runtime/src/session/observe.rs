//! Watching a run: what is called around every operator, and the digests of what operators write.

use crate::arith::digest;
use crate::model::MAX_CHAIN;

/// Called by a run around every operator. All methods do nothing unless overridden; `()` observes nothing and costs
/// nothing. An operator in a chain comes once per block of rows, the others once.
pub trait Observer {
    /// Whether [`after`](Self::after) is called: what an operator has written is only looked up for those who want it.
    const WATCHES_OUTPUT: bool = true;

    /// Before operator `op` starts, or goes on with a block of rows.
    fn before(&mut self, op: usize) {
        let _ = op;
    }
    /// When operator `op` has run: the place to read a clock.
    fn ran(&mut self, op: usize) {
        let _ = op;
    }
    /// After operator `op` has written `part` of its output.
    fn after(&mut self, op: usize, part: Part<'_>) {
        let _ = (op, part);
    }
}

impl Observer for () {
    const WATCHES_OUTPUT: bool = false;
}

/// A stretch of an operator's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The bytes; none where a later operator writes the rest of the tensor, or a later block.
    pub bytes: &'a [u8],
    /// Their offset in the tensor.
    pub offset: usize,
    /// Bytes of the tensor; 0 where a later operator writes the rest of it.
    pub total: usize,
    /// No other part follows.
    pub is_last: bool,
}

impl Part<'_> {
    /// Its share of the digest of the whole output: [`join`](crate::arith::digest::join) them.
    pub fn digest(&self) -> u64 {
        // Nothing yet: the length counts with the bytes.
        let nothing_yet = self.bytes.is_empty() && !self.is_last;
        if nothing_yet { 0 } else { digest::part(self.bytes, self.offset, self.total) }
    }
}

/// [`Observer`] that hands the digest of every operator's output to a closure.
pub struct Digests<F: FnMut(usize, u64)> {
    report: F,
    // Of the operators of the chain under way, at their number modulo the largest length.
    open: [u64; MAX_CHAIN],
}

impl<F: FnMut(usize, u64)> Digests<F> {
    /// Calls `report` with the number of each operator and the digest of its output.
    pub fn new(report: F) -> Self {
        Self { report, open: [0; MAX_CHAIN] }
    }
}

impl<F: FnMut(usize, u64)> Observer for Digests<F> {
    fn after(&mut self, op: usize, part: Part<'_>) {
        let Some(open) = self.open.get_mut(op % MAX_CHAIN) else { return };
        *open = digest::join(*open, part.digest());
        if part.is_last {
            (self.report)(op, core::mem::take(open));
        }
    }
}
