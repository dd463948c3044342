//! What host and device say.

use serde::{Deserialize, Serialize};

/// Version of the messages.
pub const PROTOCOL: u8 = 1;
/// Bytes of inputs, outputs and models that a message carries at most.
pub const CHUNK: usize = 512;

/// A request or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<T> {
    /// The session: chosen by the host, 0 on a device that knows none.
    pub session: u32,
    /// Number of the request in the session.
    pub number: u32,
    /// What is said.
    pub body: T,
}

/// What a host asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Starts a session. Answer: [`Response::Info`].
    Hello,
    /// Bytes of an input, from `offset` on. Answer: [`Response::Done`].
    Input {
        /// Which input.
        index: u16,
        /// First byte.
        offset: u32,
        /// The bytes.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// One inference on the inputs that were sent, at position 0 of a model with state. The memory of inputs is used in it: each
    /// run needs them again. Answer: [`Response::Ran`].
    Run {
        /// An operator whose output is kept as it was right after it.
        keep: Option<u16>,
    },
    /// Bytes of the output that was kept, from `offset` on. Answer: [`Response::Bytes`].
    Kept {
        /// First byte.
        offset: u32,
    },
    /// Bytes of an output, from `offset` on. Answer: [`Response::Bytes`].
    Output {
        /// Which output.
        index: u16,
        /// First byte.
        offset: u32,
    },
    /// Results of operators of the last run, from operator `first` on. Answer: [`Response::Bytes`], [`OpResult`]s.
    Ops {
        /// First operator.
        first: u16,
    },
    /// Runs the model on a receipt and compares every operator. Answer: [`Response::Receipt`].
    Receipt {
        /// Which receipt.
        index: u16,
    },
    /// Makes room for a model of so many bytes; the one before is forgotten. Answer: [`Response::Done`].
    Upload {
        /// Bytes of the model.
        bytes: u32,
    },
    /// Bytes of the model, from `offset` on. Answer: [`Response::Done`].
    Model {
        /// First byte.
        offset: u32,
        /// The bytes.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// The model is complete: it is opened. Answer: [`Response::Info`].
    Open {
        /// CRC-32 of its bytes.
        crc: u32,
    },
}

/// What a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response<'a> {
    /// What the device is and runs.
    #[serde(borrow)]
    Info(Info<'a>),
    /// Done as asked.
    Done,
    /// The model has run.
    Ran {
        /// What it took, by the device's counter.
        ticks: u32,
    },
    /// Bytes from the offset asked for; fewer than [`CHUNK`] at the end.
    #[serde(borrow)]
    Bytes(&'a [u8]),
    /// What became of a receipt.
    Receipt {
        /// The first operator that differs.
        differs: Option<u16>,
    },
    /// It cannot be done, and nothing was changed: why.
    Refused(&'a str),
    /// The device does not know the session: it has started anew, or another host has.
    Lost,
}

/// A device and its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info<'a> {
    /// [`PROTOCOL`] of the device.
    pub protocol: u8,
    /// Its name.
    pub board: &'a str,
    /// The kernels it runs.
    pub kernels: &'a str,
    /// Ticks of its counter in a second; 0 where it has none.
    pub counter_hz: u32,
    /// Memory for an uploaded model, results, state and arena together.
    pub memory_bytes: u32,
    /// The model that runs.
    pub model: Option<ModelInfo>,
    /// Why none does.
    pub fault: &'a str,
}

/// The model of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// CRC-32 of its bytes behind the header, as the header says it: tells models apart.
    pub id: u32,
    /// Bytes of the file.
    pub bytes: u32,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Bytes of the state.
    pub state_bytes: u32,
    /// Operators.
    pub ops: u16,
    /// Inputs.
    pub inputs: u16,
    /// Outputs.
    pub outputs: u16,
    /// Receipts.
    pub receipts: u16,
}

/// What an operator gave and took in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpResult {
    /// Digest of its output.
    pub digest: u64,
    /// What it took, by the device's counter.
    pub ticks: u32,
}

impl OpResult {
    /// Encoded size.
    pub const BYTES: usize = 12;

    /// Little-endian digest, then ticks.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let all = self.digest.to_le_bytes().into_iter().chain(self.ticks.to_le_bytes());
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The result that these bytes hold.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self { digest: u64::from_le_bytes([a, b, c, d, e, f, g, h]), ticks: u32::from_le_bytes([i, j, k, l]) }
    }
}
