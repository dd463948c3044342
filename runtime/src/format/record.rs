//! The fixed-size records of operators, tensors and proofs.

use super::words::{ReadWords, Word, WriteWords};
use crate::tensor::Dtype;
use core::ops::Range;

/// "No operand" in an operator record.
pub const NO_TENSOR: u16 = 0xffff;
/// AttentionInputs an operator may have.
pub const MAX_INPUTS: usize = 6;
/// Dimensions a tensor may have.
pub const MAX_RANK: usize = 6;

/// One operator: what it is, what it reads and writes, where its parameters and scratch memory lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpRecord {
    /// Operator kind ([`crate::ops::OpKind`]).
    pub kind: u16,
    /// Runs in blocks of rows together with the operator before: a block of rows passes through all chained operators
    /// before the next block starts.
    pub chained: bool,
    /// In a model with state: the pieces of the operator, where they make the output from the first row to the last, row after
    /// row, so that a run of fewer rows needs as many fewer of them; 0 where each run needs all (1.7).
    pub by_rows: u16,
    /// Input tensors, [`NO_TENSOR`] where unused.
    pub inputs: [u16; MAX_INPUTS],
    /// Output tensor.
    pub output: u16,
    /// Scratch memory in the arena while the operator runs.
    pub scratch_offset: u32,
    /// Bytes of scratch; the reader requires at least what the operator asks for.
    pub scratch_bytes: u32,
    /// First word in the `Params` section.
    pub params_offset: u32,
    /// Number of words.
    pub params_words: u16,
}

impl OpRecord {
    /// Encoded size.
    pub const BYTES: usize = 32;
    /// The bit of the encoded kind that says `chained`.
    const CHAINED: u32 = 1 << 15;

    /// [`chained`](Self::chained) of an encoded record.
    pub(crate) fn is_chained(record: &[u8; Self::BYTES]) -> bool {
        let [low, high, ..] = *record;
        u32::from(u16::from_le_bytes([low, high])) & Self::CHAINED != 0
    }

    /// Takes [`chained`](Self::chained) out of an encoded record.
    pub(crate) fn leave_chain(record: &mut [u8; Self::BYTES]) {
        let [_, high, ..] = record;
        *high &= !((Self::CHAINED >> 8) as u8);
    }

    /// Decodes a record; `None` when `bytes` is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let words: &[[u8; 4]; Self::BYTES / 4] = bytes.as_chunks().0.first_chunk()?;
        let [first, a, b, c, scratch_offset, scratch_bytes, params_offset, last] = words.map(u32::from_le_bytes);
        let (low, high) = (|word: u32| word as u16, |word: u32| (word >> 16) as u16);
        Some(Self {
            kind: low(first & !Self::CHAINED),
            chained: first & Self::CHAINED != 0,
            by_rows: high(last),
            inputs: [low(a), high(a), low(b), high(b), low(c), high(c)],
            output: high(first),
            scratch_offset,
            scratch_bytes,
            params_offset,
            params_words: low(last),
        })
    }

    /// Encodes the record.
    pub fn encode(&self, out: &mut dyn WriteWords) {
        let chained = if self.chained { Self::CHAINED } else { 0 };
        out.word(u32::from(self.kind) | chained | u32::from(self.output) << 16);
        for pair in self.inputs.chunks_exact(2) {
            if let [a, b] = pair {
                out.word(u32::from(*a) | u32::from(*b) << 16);
            }
        }
        out.word(self.scratch_offset);
        out.word(self.scratch_bytes);
        out.word(self.params_offset);
        out.word(u32::from(self.params_words) | u32::from(self.by_rows) << 16);
    }
}

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the caller's arena, at the record's offset.
    Arena = 0,
    /// In the `Weights` section, at the record's offset.
    Constant = 1,
    /// In the caller's state, which lives from one run to the next (1.2): one row per position, the first dimension.
    State = 2,
}

/// One tensor: contiguous, row major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRecord {
    /// Element type.
    pub dtype: Dtype,
    /// Where it lies.
    pub place: Place,
    /// Number of used dimensions.
    pub rank: u8,
    /// Rows that are in memory at a time, row `r` at `r % window`; 0: all. A row is the last dimension.
    pub window: u8,
    /// Offset in bytes, a multiple of 16.
    pub offset: u32,
    /// Dimensions; those beyond `rank` are 1.
    pub dims: [u32; MAX_RANK],
    /// Zero point of the quantization (0 for all but raw images and imported asymmetric activations).
    pub zero_point: i32,
}

impl TensorRecord {
    /// Encoded size.
    pub const BYTES: usize = 36;

    /// Takes the window out of an encoded record, which then lies at `offset`.
    pub(crate) fn make_whole(record: &mut [u8; Self::BYTES], offset: u32) {
        let [_, _, _, window, a, b, c, d, ..] = record;
        *window = 0;
        [*a, *b, *c, *d] = offset.to_le_bytes();
    }

    /// Decodes a record; `None` when it is too short or holds no tensor.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let words: &[[u8; 4]; Self::BYTES / 4] = bytes.as_chunks().0.first_chunk()?;
        // One by one: a map over the array copies its bytes first.
        let [first, offset, a, b, c, d, e, f, zero_point] = words;
        let [dtype, place, rank, window] = *first;
        let dim = |word: &[u8; 4]| u32::from_le_bytes(*word);
        let record = Self {
            dtype: Dtype::from_byte(dtype)?,
            place: match place {
                0 => Place::Arena,
                1 => Place::Constant,
                2 => Place::State,
                _ => return None,
            },
            rank,
            window,
            offset: u32::from_le_bytes(*offset),
            dims: [dim(a), dim(b), dim(c), dim(d), dim(e), dim(f)],
            zero_point: i32::from_le_bytes(*zero_point),
        };
        let used_up = record.dims.iter().skip(usize::from(rank)).all(|&d| d == 1);
        let sane = usize::from(rank) <= MAX_RANK;
        (sane && used_up && record.checked_bytes().is_some()).then_some(record)
    }

    /// Encodes the record.
    pub fn encode(&self, out: &mut dyn WriteWords) {
        let place = match self.place {
            Place::Arena => 0,
            Place::Constant => 1,
            Place::State => 2,
        };
        out.word(u32::from_le_bytes([self.dtype as u8, place, self.rank, self.window]));
        out.word(self.offset);
        self.dims.write(out);
        self.zero_point.write(out);
    }

    /// The used dimensions.
    pub fn shape(&self) -> &[u32] {
        self.dims.get(..usize::from(self.rank)).unwrap_or(&[])
    }

    /// Number of elements. The record was checked when it was decoded: the product fits.
    pub fn len(&self) -> usize {
        self.dims.iter().fold(1usize, |n, &d| n.saturating_mul(d as usize))
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes, of all rows.
    pub fn bytes(&self) -> usize {
        self.len().saturating_mul(self.dtype.bytes())
    }

    /// Elements of a row: the last used dimension.
    pub fn row(&self) -> usize {
        self.shape().last().map_or(1, |&d| d as usize)
    }

    /// Bytes of memory it takes: of all rows, or of those in its window.
    pub fn held_bytes(&self) -> usize {
        let window = usize::from(self.window).saturating_mul(self.row()).saturating_mul(self.dtype.bytes());
        if self.window == 0 { self.bytes() } else { window.min(self.bytes()) }
    }

    /// The row that lies at the start of the memory while row `row` is there.
    pub fn first_held(&self, row: usize) -> usize {
        first_held(self.window, row)
    }

    fn checked_bytes(&self) -> Option<u32> {
        let mut bytes = self.dtype.bytes() as u32;
        for &d in &self.dims {
            bytes = bytes.checked_mul(d)?;
        }
        (bytes < 1 << 31).then_some(bytes)
    }
}

fn first_held(window: u8, row: usize) -> usize {
    row - row.checked_rem(usize::from(window)).unwrap_or(row)
}

/// What a running operator needs of the record of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// Element type.
    pub dtype: Dtype,
    /// Where it lies.
    pub place: Place,
    /// As [`TensorRecord::window`].
    pub window: u8,
    /// Offset in bytes.
    pub offset: usize,
    /// [`TensorRecord::held_bytes`].
    pub bytes: usize,
}

impl TensorSlot {
    /// Reads a record that [`TensorRecord::decode`] has accepted before, without proving again what it proves: that the
    /// number of bytes does not overflow. Any bytes give some operand or `None`.
    #[inline(always)]
    pub(crate) fn read(record: &[u8]) -> Option<Self> {
        let words: &[[u8; 4]; TensorRecord::BYTES / 4] = record.as_chunks().0.first_chunk()?;
        let [first, offset, a, b, c, d, e, f, _] = words;
        let [dtype, place, rank, window] = *first;
        // Of bytes that are known to be codes, decoding takes no instruction.
        if dtype > Dtype::I32 as u8 || place > Place::State as u8 {
            return None;
        }
        let dtype = Dtype::from_byte(dtype)?;
        let place = match place {
            0 => Place::Arena,
            1 => Place::Constant,
            2 => Place::State,
            _ => return None,
        };
        let times = |n: usize, by: &[u8; 4]| n.wrapping_mul(u32::from_le_bytes(*by) as usize);
        let mut bytes = times(times(times(times(times(times(dtype.bytes(), a), b), c), d), e), f);
        if window > 0 {
            let rows = usize::from(window).wrapping_mul(dtype.bytes());
            let [_, _, dims @ .., _] = words;
            bytes = bytes.min(dims.get(usize::from(rank).wrapping_sub(1)).map_or(rows, |row| times(rows, row)));
        }
        let offset = u32::from_le_bytes(*offset) as usize;
        Some(Self { dtype, place, window, offset, bytes })
    }

    /// The bytes it takes of its memory.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset.saturating_add(self.bytes)
    }

    /// As [`TensorRecord::first_held`].
    pub fn first_held(&self, row: usize) -> usize {
        first_held(self.window, row)
    }
}

/// What a model keeps from one run to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// Bytes of state a session needs; 0 for a model without state.
    pub bytes: u32,
    /// Positions of a session. Tensors in the state have a row for each, or fewer where runs have one row: position `p` is
    /// row `p mod rows` then.
    pub capacity: u32,
    /// Rows (positions) of a run at most. Operators with as many row pieces run those that are fed.
    pub rows: u32,
}

impl Word for StateLayout {
    const WORDS: usize = 3;
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        Some(Self { bytes: words.word()?, capacity: words.word()?, rows: words.word()? })
    }
    fn write(&self, out: &mut dyn WriteWords) {
        [self.bytes, self.capacity, self.rows].iter().for_each(|word| out.word(*word));
    }
}

/// What is proven about one operator: no intermediate value leaves these ranges, for any input bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertRecord {
    /// Minimum accumulator value over all channels, bias included.
    pub acc_min: i32,
    /// Maximum accumulator value over all channels, bias included.
    pub acc_max: i32,
    /// Bits, with sign, of the widest requantization product, 0 where there is none.
    pub product_bits: u32,
    /// Bits, with sign, of the widest sum that is kept in 64 bits, 0 where all sums have 32.
    pub wide_bits: u32,
    /// Bits of the row sum, which has no sign: of exponentials for attention and softmax, of the scaled variance for
    /// norms; 0 where there is none.
    pub sum_bits: u32,
}

impl CertRecord {
    /// Encoded size.
    pub const BYTES: usize = 16;

    /// Bits, with sign, that hold every accumulator value.
    pub fn acc_bits(&self) -> u32 {
        let magnitude = |v: i32| 33 - (if v < 0 { !v } else { v }).leading_zeros();
        magnitude(self.acc_min).max(magnitude(self.acc_max))
    }
}

impl Word for CertRecord {
    const WORDS: usize = 4;
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        let (acc_min, acc_max) = (Word::read(words)?, Word::read(words)?);
        // Product bits in the low half, wide bits in the high half.
        let bits = words.word()?;
        let sum_bits = Word::read(words)?;
        Some(Self { acc_min, acc_max, product_bits: bits & 0xffff, wide_bits: bits >> 16, sum_bits })
    }
    fn write(&self, out: &mut dyn WriteWords) {
        self.acc_min.write(out);
        self.acc_max.write(out);
        out.word(self.product_bits & 0xffff | self.wide_bits << 16);
        self.sum_bits.write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let cert = CertRecord { acc_min: -7, acc_max: 9, product_bits: 86, wide_bits: 55, sum_bits: 64 };
        let mut bytes = std::vec::Vec::new();
        cert.write(&mut |word: u32| bytes.extend_from_slice(&word.to_le_bytes()));
        assert_eq!(bytes.len(), CertRecord::BYTES);
        assert_eq!(CertRecord::read(&mut ReadWords::new(&bytes)), Some(cert));
    }

    #[test]
    fn a_window_holds_some_rows() {
        let whole = TensorRecord {
            dtype: Dtype::I16,
            place: Place::Arena,
            rank: 3,
            window: 0,
            offset: 0,
            dims: [1, 7, 6, 1, 1, 1],
            zero_point: 0,
        };
        assert_eq!((whole.held_bytes(), whole.first_held(5)), (84, 0));
        let part = TensorRecord { window: 3, ..whole };
        assert_eq!((part.held_bytes(), part.first_held(2), part.first_held(5)), (36, 0, 3));
        assert_eq!(TensorRecord { window: 200, ..whole }.held_bytes(), 84);
        let mut bytes = std::vec::Vec::new();
        part.encode(&mut |word: u32| bytes.extend_from_slice(&word.to_le_bytes()));
        assert_eq!(TensorRecord::decode(&bytes), Some(part));
        for window in [0, 1, 3, 7, 200] {
            let record = TensorRecord { window, ..part };
            let mut bytes = std::vec::Vec::new();
            record.encode(&mut |word: u32| bytes.extend_from_slice(&word.to_le_bytes()));
            let held =
                TensorSlot { dtype: part.dtype, place: part.place, window, offset: 0, bytes: record.held_bytes() };
            assert_eq!(TensorSlot::read(&bytes), Some(held));
        }
    }

    #[test]
    fn acc_bits_counts_the_sign() {
        let cert = |acc_min, acc_max| CertRecord { acc_min, acc_max, ..Default::default() };
        assert_eq!(cert(0, 0).acc_bits(), 1);
        assert_eq!(cert(-128, 127).acc_bits(), 8);
        assert_eq!(cert(-128, 128).acc_bits(), 9);
        assert_eq!(cert(i32::MIN, 0).acc_bits(), 32);
    }
}
