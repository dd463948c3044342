//! What a machine answers: a string of records, each a tag `u32`, the length of its payload `u32`, and the payload.
//! All numbers are little-endian; nothing is padded.

/// One record of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// First record: the machine counted a loop of known length.
    Calibration {
        /// Instructions between the two readings of the counter, those of an empty interval apart.
        instructions: u32,
        /// Ticks of the counter for them.
        ticks: u32,
        /// Ticks of an empty interval.
        empty_ticks: u32,
    },
    /// One whole inference, without observer.
    Inference {
        /// Ticks of the counter.
        ticks: u32,
        /// Bytes of stack below the caller of the inference, at its deepest.
        stack_bytes: u32,
    },
    /// What comes to an inference: opening the model, and running it in steps.
    Overhead(Overhead),
    /// An operator has run, or a block of its rows: the ticks of all blocks add up, and their digests join.
    Op {
        /// Index of the operator.
        op: u32,
        /// Ticks of the counter.
        ticks: u32,
        /// Share of the digest of its output; of no bytes where a later operator writes the rest of that tensor.
        digest: u64,
    },
    /// Output bytes of the operator that was asked for; of a block of its rows, one after the other.
    Dump(&'a [u8]),
    /// Bytes of the next output of the sample.
    Output(&'a [u8]),
    /// The sample is complete.
    SampleEnd,
    /// The job failed: why, as UTF-8 text.
    Failed(&'a [u8]),
    /// The block of tokens was not taken, the state is as before: why, as UTF-8 text.
    Rejected(&'a [u8]),
    /// Last record of a job that succeeded.
    Done,
}

/// Ticks of the counter besides those of an inference in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// Opening the model with every check.
    pub open: u32,
    /// Opening a model that was proven when the firmware was built.
    pub open_proven: u32,
    /// Steps of an inference.
    pub steps: u32,
    /// All of them together.
    pub all_steps: u32,
    /// The longest step.
    pub longest: u32,
    /// Operator it belongs to.
    pub longest_op: u32,
}

/// The answer breaks off or is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError;

impl Record<'_> {
    /// Writes the record in pieces.
    pub fn write<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut words = [0u32; 8];
        let mut tail: &[u8] = &[];
        let payload_words = match *self {
            Record::Calibration { instructions, ticks, empty_ticks } => {
                words = [1, 12, instructions, ticks, empty_ticks, 0, 0, 0];
                3
            }
            Record::Inference { ticks, stack_bytes } => {
                words = [2, 8, ticks, stack_bytes, 0, 0, 0, 0];
                2
            }
            Record::Op { op, ticks, digest } => {
                words = [3, 16, op, ticks, digest as u32, (digest >> 32) as u32, 0, 0];
                4
            }
            Record::Overhead(Overhead { open, open_proven, steps, all_steps, longest, longest_op }) => {
                words = [9, 24, open, open_proven, steps, all_steps, longest, longest_op];
                6
            }
            Record::Dump(bytes) => tagged(&mut words, &mut tail, 4, bytes),
            Record::Output(bytes) => tagged(&mut words, &mut tail, 5, bytes),
            Record::SampleEnd => tagged(&mut words, &mut tail, 6, &[]),
            Record::Failed(text) => tagged(&mut words, &mut tail, 7, text),
            Record::Done => tagged(&mut words, &mut tail, 8, &[]),
            Record::Rejected(text) => tagged(&mut words, &mut tail, 10, text),
        };
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        sink(bytes.get(..8 + 4 * payload_words).unwrap_or(&bytes))?;
        if tail.is_empty() { Ok(()) } else { sink(tail) }
    }
}

fn tagged<'a>(words: &mut [u32; 8], tail: &mut &'a [u8], tag: u32, bytes: &'a [u8]) -> usize {
    *words = [tag, bytes.len() as u32, 0, 0, 0, 0, 0, 0];
    *tail = bytes;
    0
}

/// Reads an answer: an iterator over its records. It ends after the last byte, or after the first error.
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// The records in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split(self.0);
        self.0 = record.map_or(&[], |(_, rest)| rest);
        Some(record.map(|(record, _)| record).ok_or(RecordError))
    }
}

fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let mut words = [0; 6];
    let (chunks, odd) = payload.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*chunk);
    }
    let whole = |n: usize| (chunks.len() == n && odd.is_empty()).then_some(());
    let [a, b, c, d, e, f] = words;
    let record = match u32::from_le_bytes(*tag) {
        1 => whole(3).map(|()| Record::Calibration { instructions: a, ticks: b, empty_ticks: c })?,
        2 => whole(2).map(|()| Record::Inference { ticks: a, stack_bytes: b })?,
        3 => whole(4).map(|()| Record::Op { op: a, ticks: b, digest: u64::from(c) | u64::from(d) << 32 })?,
        4 => Record::Dump(payload),
        5 => Record::Output(payload),
        6 => Record::SampleEnd,
        7 => Record::Failed(payload),
        8 => Record::Done,
        10 => Record::Rejected(payload),
        9 => whole(6).map(|()| {
            Record::Overhead(Overhead { open: a, open_proven: b, steps: c, all_steps: d, longest: e, longest_op: f })
        })?,
        _ => return None,
    };
    Some((record, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ALL: [Record<'_>; 10] = [
        Record::Calibration { instructions: 2000, ticks: 12_800, empty_ticks: 40 },
        Record::Inference { ticks: 7, stack_bytes: 900 },
        Record::Overhead(Overhead { open: 1, open_proven: 2, steps: 3, all_steps: 4, longest: 5, longest_op: 6 }),
        Record::Op { op: 3, ticks: 9, digest: 0x0123_4567_89ab_cdef },
        Record::Dump(&[1, 2, 3]),
        Record::Output(&[]),
        Record::SampleEnd,
        Record::Failed(b"no"),
        Record::Rejected(b"full"),
        Record::Done,
    ];

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in ALL {
            let sink = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok::<(), ()>(())
            };
            assert_eq!(record.write(sink), Ok(()));
        }
        bytes
    }

    #[test]
    fn records_survive_the_round_trip() {
        let bytes = encoded();
        let read: Result<Vec<_>, _> = Records::new(&bytes).collect();
        assert_eq!(read.as_deref(), Ok(&ALL[..]));
    }

    #[test]
    fn a_cut_answer_ends_in_an_error_or_at_a_record() {
        let bytes = encoded();
        for end in 0..bytes.len() {
            let read: Vec<_> = Records::new(&bytes[..end]).collect();
            let good = read.iter().take_while(|record| record.is_ok()).count();
            assert!(good >= read.len().saturating_sub(1), "an error is the last item, cut at {end}");
            assert!(good < ALL.len());
        }
    }
}
