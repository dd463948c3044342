//! The pieces of one operator on several threads: halved until the kernels have enough parts, each with its share of the
//! output and a scratch area of its own. What a piece computes does not depend on the others, so neither do the bytes.

use super::{Division, Memory, Operator, RunFault};
use crate::kernels::{Kernels, with_scratch};
use core::ops::Range;

/// Runs `pieces` of `op`, on several threads where the kernels have them and the work is worth it.
pub(super) fn run<B: Kernels, O: Operator>(
    op: &O,
    memory: &mut Memory<'_>,
    pieces: Range<u32>,
) -> Result<(), RunFault> {
    let Some(division) = op.division() else { return op.run::<B>(memory, pieces) };
    let parts = B::parts(division.work.saturating_mul(pieces.len() as u64));
    run_parts::<B, O>(op, division, parts, memory, pieces)
}

/// Runs `pieces` in `parts` parts.
fn run_parts<B: Kernels, O: Operator>(
    op: &O,
    division: Division,
    parts: usize,
    memory: &mut Memory<'_>,
    pieces: Range<u32>,
) -> Result<(), RunFault> {
    let (first_parts, scratch) = (parts / 2, memory.scratch.len());
    let Some(middle) = middle(&pieces, first_parts, parts) else { return op.run::<B>(memory, pieces) };
    let row = division.rows_before(middle) as usize;
    let rows = row.saturating_sub(memory.output.first_held(row));
    let (mut low, high) = memory.halves(rows * division.out_row as usize).ok_or(RunFault::Memory)?;
    let first = || run_parts::<B, O>(op, division, first_parts, &mut low, pieces.start..middle);
    let second = || {
        with_scratch(scratch, |scratch| {
            let mut memory = Memory { scratch, ..high };
            run_parts::<B, O>(op, division, parts - first_parts, &mut memory, middle..pieces.end)
        })
    };
    let (first, second) = B::join(first, second);
    first.and(second)
}

/// Where `first` of `parts` parts of `pieces` end; `None` where there is nothing to divide.
///
/// Parts are even: the last tile of one, with fewer rows than the kernels take at a time, costs less than a whole tile
/// more of work for another thread.
fn middle(pieces: &Range<u32>, first: usize, parts: usize) -> Option<u32> {
    let count = pieces.len() as u32;
    if parts < 2 || count < 2 {
        return None;
    }
    let share = (u64::from(count) * first as u64 / parts as u64) as u32;
    Some(pieces.start + share.clamp(1, count - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_of_a_group_may_have_fewer_rows() {
        let groups = Division { group_rows: 7, group: 2, rows: 5, ..Division::rows(1, 1) };
        assert_eq!([0, 1, 2, 3, 4].map(|piece| groups.rows_before(piece)), [0, 5, 7, 12, 14]);
        assert_eq!(Division::rows(1, 1).rows_before(9), 9);
    }

    #[test]
    fn parts_are_even_and_not_empty() {
        assert_eq!(middle(&(0..197), 1, 2), Some(98));
        assert_eq!(middle(&(98..197), 1, 3), Some(98 + 33));
        assert_eq!(middle(&(3..5), 1, 2), Some(4));
        assert_eq!(middle(&(3..5), 4, 8), Some(4));
        assert_eq!(middle(&(0..2), 1, 1000), Some(1));
        assert_eq!(middle(&(3..4), 1, 2), None);
        assert_eq!(middle(&(0..100), 0, 1), None);
    }
}
