//! A job: a model, samples, and what to report of their runs. The host writes it, a machine executes it.
//!
//! The machine may be a bare-metal board in an emulator or a process on another architecture; both run [`execute`] and
//! differ in their [`Host`].
//!
//! The host prepares two byte strings. The *job* is [`Job::BYTES`] bytes of header ([`Job::encode`]), then the model;
//! it lies at an address divisible by 16. The *samples* are the inputs of every sample in turn, each input as the
//! model's raw bytes, nothing between them. The answer is a string of [`Record`]s.
#![no_std]

#[cfg(test)]
extern crate std;

mod board;
pub mod boards;
mod cores;
mod execute;
mod machine;
mod record;
mod soak;

pub use board::Board;
pub use cores::Core;
pub use execute::{Host, HostError, execute};
pub use machine::Machine;
pub use record::{Overhead, Record, RecordError, Records};
pub use soak::{Soak, soak};

/// What the machine is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Bytes of the model behind the header.
    pub model_bytes: u32,
    /// Samples to run and report.
    pub samples: u32,
    /// Measure first: one whole inference, one in steps, and opening the model. The samples then begin with two more, used
    /// for that alone.
    pub measure: bool,
    /// Use the fast kernels of the machine instead of the portable ones.
    pub native: bool,
    /// Tokens, all of id 0, that a decoder processes before each run, which is of one token then; 0 runs the sample as it is.
    pub position: u32,
    /// Instead of samples there are tokens, as [`Job::RESET`] says.
    pub tokens: bool,
    /// Also report the output bytes of this operator.
    pub dump_op: Option<u16>,
    /// Another job follows the model, at the next multiple of 16 bytes. Its answer follows that of this job.
    pub more: bool,
}

const MAGIC: u32 = u32::from_le_bytes(*b"SFJ1");
const MEASURE: u32 = 1;
const NATIVE: u32 = 2;
const MORE: u32 = 4;
const TOKENS: u32 = 8;
const NO_DUMP: u32 = u32::MAX;

impl Job {
    /// Encoded size: a multiple of the alignment of a model.
    pub const BYTES: usize = 32;

    /// A job with tokens reads blocks of them until one has none: the number of tokens, then the tokens, all as `u32`. The answer
    /// to a block is a [`Record::Output`] for the logits of each token and a [`Record::SampleEnd`], or a
    /// [`Record::Rejected`] with the state as before. This number instead of one of tokens forgets all of them, without an
    /// answer.
    pub const RESET: u32 = u32::MAX;

    /// The header: little-endian words magic, model bytes, samples, flags, dumped operator or all ones, position, two zeros.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.measure, MEASURE) | flag(self.native, NATIVE) | flag(self.more, MORE);
        let flags = flags | flag(self.tokens, TOKENS);
        let dump = self.dump_op.map_or(NO_DUMP, u32::from);
        let mut bytes = [0; Self::BYTES];
        let words = [MAGIC, self.model_bytes, self.samples, flags, dump, self.position];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Bytes of the job: header, model, and what makes them a multiple of 16.
    pub fn bytes(&self) -> usize {
        Self::BYTES + (self.model_bytes as usize).next_multiple_of(16)
    }

    /// Reads a header; `None` when `bytes` is too short or holds none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; Self::BYTES / 4];
        for (word, from) in words.iter_mut().zip(bytes.get(..Self::BYTES)?.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*from);
        }
        let [magic, model_bytes, samples, flags, dump, position, ..] = words;
        let job = Self {
            model_bytes,
            samples,
            measure: flags & MEASURE != 0,
            native: flags & NATIVE != 0,
            position,
            tokens: flags & TOKENS != 0,
            dump_op: u16::try_from(dump).ok(),
            more: flags & MORE != 0,
        };
        (magic == MAGIC).then_some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_the_round_trip() {
        for dump_op in [None, Some(0), Some(17)] {
            let (some, position) = (dump_op.is_some(), dump_op.map_or(0, u32::from));
            let job = Job {
                model_bytes: 1000,
                samples: 3,
                measure: true,
                native: false,
                position,
                tokens: !some,
                dump_op,
                more: some,
            };
            assert_eq!(Job::decode(&job.encode()), Some(job));
        }
        assert_eq!(Job::decode(&[0; Job::BYTES]), None);
        assert_eq!(Job::decode(&[]), None);
    }
}
