//! Whole outputs of operators from the parts that a run reports.

use shiftformer::{Observer, Part};
use std::collections::HashMap;

/// [`Observer`] that hands the bytes of every operator's output to a closure once they are complete; none where a later
/// operator writes the rest of the tensor.
pub struct WholeOutputs<F: FnMut(usize, &[u8])> {
    report: F,
    open: HashMap<usize, Vec<u8>>,
}

impl<F: FnMut(usize, &[u8])> WholeOutputs<F> {
    /// Calls `report` with the number of each operator and its output.
    pub fn new(report: F) -> Self {
        Self { report, open: HashMap::new() }
    }
}

impl<F: FnMut(usize, &[u8])> Observer for WholeOutputs<F> {
    fn after(&mut self, op: usize, part: Part<'_>) {
        if part.is_last && !self.open.contains_key(&op) {
            (self.report)(op, part.bytes);
            return;
        }
        self.open.entry(op).or_default().extend_from_slice(part.bytes);
        if part.is_last
            && let Some(bytes) = self.open.remove(&op)
        {
            (self.report)(op, &bytes);
        }
    }
}
