//! Positions and state: rows of a run, going back, and snapshots.
//!
//! Every tensor in the state has one row per position. The rows before the position are what the state holds; what lies
//! behind them is never read before it is written, so that going back is to forget. A tensor of fewer rows is a ring: it
//! holds the last positions, and what was written over does not come back.
//!
//! A snapshot is, in little-endian words: magic, the checksum of the model's payload, the position; then of every tensor in
//! the state the rows before the position; then the CRC-32 of all of that.

use super::Session;
use crate::format::{CRC, OpRecord, TensorRecord, field};
use crate::kernels::Kernels;
use crate::ops::{Entry, RunFault, Step};
use core::fmt;
use core::ops::Range;

/// First bytes of a snapshot.
const MAGIC: [u8; 4] = *b"SFS\x1a";
/// Bytes before the rows.
const HEAD_BYTES: usize = 12;

/// Why a snapshot cannot be restored. The state is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes are no snapshot, or not all of one.
    NotASnapshot,
    /// It was taken of another model.
    OtherModel,
    /// The checksum does not match.
    Damaged,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotASnapshot => "not a snapshot of a session, or not all of it; take it again",
            Self::OtherModel => "the snapshot was taken of another model; process the prompt with this one",
            Self::Damaged => "checksum mismatch: the snapshot is damaged; process the prompt again",
        })
    }
}

impl core::error::Error for SnapshotError {}

impl<B: Kernels> Session<'_, '_, B> {
    /// Rows in the state: the position of the next row.
    pub fn position(&self) -> u32 {
        self.at.pos
    }

    /// Sets the rows of the following runs, the first ones of the inputs. Cancels a run that is under way.
    ///
    /// # Errors
    /// [`RunFault::Rows`] when a run does not take as many, [`RunFault::Full`] when positions are missing.
    pub fn feed(&mut self, rows: u32) -> Result<(), RunFault> {
        self.cancel();
        let limit = self.model.state().rows;
        if rows == 0 || rows > limit {
            return Err(RunFault::Rows { limit });
        }
        let before = core::mem::replace(&mut self.at.rows, rows);
        self.check_room().inspect_err(|_| self.at.rows = before)
    }

    /// Goes back to position 0. Cancels a run that is under way.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Goes back to `position`, where it is not beyond the present one; whether it did. Cancels a run that is under way.
    ///
    /// A state that is a ring has lost what lies before its window: from beyond it, this goes back to the last position
    /// but one, or to 0.
    pub fn truncate(&mut self, position: u32) -> bool {
        self.cancel();
        let back = position <= self.at.pos
            && (position == 0 || self.at.pos - position <= 1 || self.at.pos <= self.model.window());
        if back {
            self.at.pos = position;
        }
        back
    }

    /// Whether the rows of the next run have positions.
    pub(super) fn check_room(&self) -> Result<(), RunFault> {
        let capacity = self.model.state().capacity;
        let end = self.at.pos.checked_add(self.at.rows);
        if end.is_some_and(|end| end <= capacity) { Ok(()) } else { Err(RunFault::Full { capacity }) }
    }

    /// What a run has written counts.
    pub(super) fn finish(&mut self) {
        self.at.pos = self.at.pos.saturating_add(self.at.rows);
        self.finished = true;
    }

    /// Of `pieces`, those of rows that were fed, where the operator makes its output by rows: as the record says or, in files
    /// before 1.7, where the pieces are the rows of a run.
    pub(super) fn fed(&self, record: &OpRecord, entry: &Entry<B>, words: &[u8], pieces: Range<u32>) -> Range<u32> {
        let rows = self.model.state().rows;
        let end = match u32::from(record.by_rows) {
            0 if entry.needs(words).is_some_and(|needs| needs.pieces == rows) && entry.row_access(words).is_some() => {
                self.at.rows
            }
            0 => return pieces,
            all => all.checked_mul(self.at.rows).map_or(all, |share| share.div_ceil(rows.max(1))),
        };
        pieces.start.min(end)..pieces.end.min(end)
    }

    /// Ranges of the state that hold the rows before `position`.
    fn rows(&self, position: u32) -> impl Iterator<Item = Range<usize>> + use<'_, B> {
        self.model.state_tensors().map(move |tensor| held_rows(&tensor, position))
    }

    fn bytes_at(&self, position: u32) -> usize {
        HEAD_BYTES + self.rows(position).map(|rows| rows.len()).sum::<usize>() + size_of::<u32>()
    }

    /// The checksum that tells models apart.
    fn model_id(&self) -> Option<[u8; 4]> {
        self.model.sections().file.get(field::PAYLOAD_CRC..)?.first_chunk().copied()
    }

    /// Bytes of a snapshot at the present position.
    pub fn snapshot_bytes(&self) -> usize {
        self.bytes_at(self.at.pos)
    }

    /// Writes position and state to the start of `to`; their bytes, `None` when it has fewer than
    /// [`snapshot_bytes`](Self::snapshot_bytes). A run under way is not part of it.
    pub fn snapshot(&self, to: &mut [u8]) -> Option<usize> {
        let bytes = self.snapshot_bytes();
        let (content, checksum) = to.get_mut(..bytes)?.split_at_mut_checked(bytes - size_of::<u32>())?;
        let (head, mut rest) = content.split_at_mut_checked(HEAD_BYTES)?;
        let fields = [MAGIC, self.model_id()?, self.at.pos.to_le_bytes()];
        head.as_chunks_mut::<4>().0.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        for range in self.rows(self.at.pos) {
            let from = self.state.get(range)?;
            let (to, behind) = rest.split_at_mut_checked(from.len())?;
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            rest = behind;
        }
        *checksum.first_chunk_mut()? = CRC.checksum(content).to_le_bytes();
        Some(bytes)
    }

    /// Continues where the snapshot at the start of `from` was taken. Cancels a run that is under way.
    ///
    /// # Errors
    /// [`SnapshotError`]; the state is then as before.
    pub fn restore(&mut self, from: &[u8]) -> Result<(), SnapshotError> {
        self.cancel();
        let not = SnapshotError::NotASnapshot;
        let (head, _) = from.split_at_checked(HEAD_BYTES).ok_or(not)?;
        let [magic, model, position] = *head.as_chunks::<4>().0.first_chunk().ok_or(not)?;
        let position = u32::from_le_bytes(position);
        if magic != MAGIC {
            return Err(not);
        }
        if Some(model) != self.model_id() {
            return Err(SnapshotError::OtherModel);
        }
        if position > self.model.state().capacity {
            return Err(SnapshotError::Damaged);
        }
        let bytes = self.bytes_at(position);
        let whole = from.get(..bytes).ok_or(not)?;
        let (content, checksum) = whole.split_last_chunk::<4>().ok_or(not)?;
        if CRC.checksum(content) != u32::from_le_bytes(*checksum) {
            return Err(SnapshotError::Damaged);
        }
        let mut rest = content.get(HEAD_BYTES..).ok_or(not)?;
        let model = self.model;
        for tensor in model.state_tensors() {
            let range = held_rows(&tensor, position);
            let (rows, behind) = rest.split_at_checked(range.len()).ok_or(not)?;
            let to = self.state.get_mut(range).unwrap_or(&mut []);
            to.iter_mut().zip(rows).for_each(|(to, from)| *to = *from);
            rest = behind;
        }
        self.at = Step { pos: position, ..self.at };
        Ok(())
    }
}

/// Range of the state that holds the rows of a tensor before `position`.
fn held_rows(tensor: &TensorRecord, position: u32) -> Range<usize> {
    let rows = tensor.shape().first().map_or(1, |&rows| rows.max(1));
    let first = tensor.offset as usize;
    first..first + tensor.bytes() / rows as usize * position.min(rows) as usize
}
