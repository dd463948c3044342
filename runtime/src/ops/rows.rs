//! What pieces of work read and write: for blocks of rows, and for threads.

use crate::format::MAX_INPUTS;

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
