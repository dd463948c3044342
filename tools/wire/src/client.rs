//! The host's side.

use crate::frame::{Collector, FRAME_BYTES, Scratch, encode};
use crate::message::{CHUNK, Info, Message, ModelInfo, OpResult, PROTOCOL, Request, Response};
use shiftformer::format::{CRC, field};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

/// Times a session is begun anew for one run before it is given up.
const RESTARTS: usize = 8;

/// A line to a device.
pub trait Link {
    /// Sends all bytes.
    ///
    /// # Errors
    /// Those of the line.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits at most `wait` for bytes, and returns how many came: 0 when none did.
    ///
    /// # Errors
    /// Those of the line; [`io::ErrorKind::UnexpectedEof`] at its end.
    fn receive(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<usize>;
}

/// What a device could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The line.
    #[error("the line failed: {0}")]
    Line(#[from] io::Error),
    /// Nobody answers.
    #[error("no answer within {0:?}; is a device with the program `device` at the other end, at the right speed?")]
    Silent(Duration),
    /// The device has started anew, and the run with it, several times.
    #[error("the device starts anew again and again")]
    Restarts,
    /// The device refuses.
    #[error("the device refuses: {0}")]
    Refused(String),
    /// The device speaks another version.
    #[error(
        "the device speaks version {0} of the protocol, this is version {PROTOCOL}; flash the program `device` of this version"
    )]
    Protocol(u8),
    /// The device answers something else than was asked.
    #[error("the device answers something else than was asked")]
    Confused,
    /// The bytes are no model.
    #[error("{0}")]
    Model(String),
}

/// [`Info`] with texts of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Name of the board.
    pub board: String,
    /// Its kernels.
    pub kernels: String,
    /// Ticks of its counter in a second; 0 where it has none.
    pub counter_hz: u32,
    /// Memory for model, state and arena.
    pub memory_bytes: u32,
    /// The model that runs.
    pub model: Option<ModelInfo>,
    /// Why none does.
    pub fault: String,
}

impl Status {
    fn of(info: &Info<'_>) -> Result<Self, WireError> {
        if info.protocol != PROTOCOL {
            return Err(WireError::Protocol(info.protocol));
        }
        Ok(Self {
            board: info.board.to_owned(),
            kernels: info.kernels.to_owned(),
            counter_hz: info.counter_hz,
            memory_bytes: info.memory_bytes,
            model: info.model,
            fault: info.fault.to_owned(),
        })
    }
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of every output.
    pub outputs: Vec<Vec<u8>>,
    /// Of every operator.
    pub ops: Vec<OpResult>,
    /// What the run took, by the device's counter.
    pub ticks: u32,
}

/// A device at the end of a line.
pub struct Client<L> {
    link: L,
    scratch: Scratch,
    incoming: Collector,
    /// Bytes that came and were not looked at.
    bytes: VecDeque<u8>,
    session: u32,
    number: u32,
    /// The model that the device runs in this session, where that was asked.
    model: Option<ModelInfo>,
    /// How long an answer may take.
    patience: Duration,
    /// How long until a request is sent again, at first.
    repeat: Duration,
}

/// A session that the device does not know (any more).
enum Fault {
    Lost,
    Other(WireError),
}

impl<E: Into<WireError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl<L: Link> Client<L> {
    /// A client on `link` that waits for an answer for at most `patience`, and asks again after `repeat`, later after twice that,
    /// and so on up to an eighth of its patience.
    pub fn new(link: L, patience: Duration, repeat: Duration) -> Self {
        // Two hosts, or one after another, must not choose the same sessions.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let session = (now.as_millis() as u32).wrapping_mul(0x9e37_79b1);
        Self {
            link,
            scratch: Scratch::new(),
            incoming: Collector::new(),
            bytes: VecDeque::new(),
            session,
            number: 0,
            model: None,
            patience,
            repeat,
        }
    }

    /// The line.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Starts a session: what the device is and runs.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn hello(&mut self) -> Result<Status, WireError> {
        // 0 is that of a device without one.
        self.session = self.session.wrapping_add(1).max(1);
        (self.number, self.model) = (0, None);
        let asked = self.ask(Request::Hello, &mut |response| {
            if let Response::Info(info) = response { Some(Status::of(&info)) } else { None }
        });
        match asked {
            Ok(status) => status,
            Err(Fault::Lost) => Err(WireError::Confused),
            Err(Fault::Other(error)) => Err(error),
        }
    }

    /// Sends `model` where the device runs another one; `progress` is told the bytes that have arrived.
    ///
    /// # Errors
    /// [`WireError`]; [`WireError::Refused`] where the device has no room for it or does not open it.
    pub fn ensure(&mut self, model: &[u8], progress: &mut dyn FnMut(usize)) -> Result<Status, WireError> {
        let id = id_of(model)?;
        for _ in 0..RESTARTS {
            let status = self.hello()?;
            if status.model.is_some_and(|running| running.id == id && running.bytes as usize == model.len()) {
                self.model = status.model;
                return Ok(status);
            }
            match self.upload(model, progress) {
                Ok(status) if status.model.is_some_and(|running| running.id == id) => {
                    self.model = status.model;
                    return Ok(status);
                }
                Ok(_) => return Err(WireError::Confused),
                Err(Fault::Lost) => {}
                Err(Fault::Other(error)) => return Err(error),
            }
        }
        Err(WireError::Restarts)
    }

    fn upload(&mut self, model: &[u8], progress: &mut dyn FnMut(usize)) -> Result<Status, Fault> {
        let bytes = u32::try_from(model.len()).map_err(|_| WireError::Model("the model is too large".to_owned()))?;
        self.done(Request::Upload { bytes })?;
        for (index, bytes) in model.chunks(CHUNK).enumerate() {
            self.done(Request::Model { offset: (index * CHUNK) as u32, bytes })?;
            progress(index * CHUNK + bytes.len());
        }
        let crc = CRC.checksum(model);
        let status = self.ask(Request::Open { crc }, &mut |response| {
            if let Response::Info(info) = response { Some(Status::of(&info)) } else { None }
        })?;
        Ok(status?)
    }

    /// Runs `model` on `inputs`, the bytes of every input, at position 0. A device that starts anew meanwhile gets the model and the
    /// inputs again.
    ///
    /// # Errors
    /// [`WireError`]; [`WireError::Refused`] where the run fails.
    pub fn infer(&mut self, model: &[u8], inputs: &[Vec<u8>]) -> Result<Answer, WireError> {
        self.with(model, &mut |client| client.answer(inputs))
    }

    /// The bytes of the output of operator `op` right after it has run on `inputs`.
    ///
    /// # Errors
    /// As [`infer`](Self::infer), and where the device has no memory to keep them in.
    pub fn op_output(&mut self, model: &[u8], inputs: &[Vec<u8>], op: u16) -> Result<Vec<u8>, WireError> {
        self.with(model, &mut |client| {
            client.run(inputs, Some(op))?;
            client.all(&mut |offset| Request::Kept { offset })
        })
    }

    /// Works with a device that runs `model`, from the beginning where it starts anew.
    fn with<T>(&mut self, model: &[u8], work: &mut dyn FnMut(&mut Self) -> Result<T, Fault>) -> Result<T, WireError> {
        let id = id_of(model)?;
        for _ in 0..RESTARTS {
            if self.model.is_none_or(|model| model.id != id) {
                self.ensure(model, &mut |_| {})?;
            }
            match work(self) {
                Ok(done) => return Ok(done),
                Err(Fault::Lost) => self.model = None,
                Err(Fault::Other(error)) => return Err(error),
            }
        }
        Err(WireError::Restarts)
    }

    fn run(&mut self, inputs: &[Vec<u8>], keep: Option<u16>) -> Result<u32, Fault> {
        for (input, bytes) in (0..).zip(inputs) {
            for (chunk, bytes) in bytes.chunks(CHUNK).enumerate() {
                self.done(Request::Input { index: input, offset: (chunk * CHUNK) as u32, bytes })?;
            }
        }
        self.ask(Request::Run { keep }, &mut |response| {
            if let Response::Ran { ticks } = response { Some(ticks) } else { None }
        })
    }

    fn answer(&mut self, inputs: &[Vec<u8>]) -> Result<Answer, Fault> {
        let ticks = self.run(inputs, None)?;
        let outputs = self.model.map_or(0, |model| model.outputs);
        let outputs = (0..outputs).map(|index| self.all(&mut |offset| Request::Output { index, offset }));
        let outputs = outputs.collect::<Result<_, _>>()?;
        let mut ops = Vec::new();
        loop {
            let bytes = self.chunk(Request::Ops { first: ops.len() as u16 })?;
            ops.extend(bytes.as_chunks::<{ OpResult::BYTES }>().0.iter().map(OpResult::decode));
            if bytes.len() < CHUNK / OpResult::BYTES * OpResult::BYTES {
                break;
            }
        }
        Ok(Answer { outputs, ops, ticks })
    }

    /// All bytes that the requests for one offset after the other give.
    fn all(&mut self, request: &mut dyn FnMut(u32) -> Request<'static>) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        loop {
            let chunk = self.chunk(request(all.len() as u32))?;
            all.extend(&chunk);
            if chunk.len() < CHUNK {
                return Ok(all);
            }
        }
    }

    /// Runs receipt `index`; the first operator that differs.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn receipt(&mut self, index: u16) -> Result<Option<u16>, WireError> {
        let asked = self.ask(Request::Receipt { index }, &mut |response| {
            if let Response::Receipt { differs } = response { Some(differs) } else { None }
        });
        asked.map_err(|fault| match fault {
            Fault::Lost => WireError::Restarts,
            Fault::Other(error) => error,
        })
    }

    fn done(&mut self, request: Request<'_>) -> Result<(), Fault> {
        self.ask(request, &mut |response| (response == Response::Done).then_some(()))
    }

    fn chunk(&mut self, request: Request<'_>) -> Result<Vec<u8>, Fault> {
        self.ask(request, &mut |response| {
            if let Response::Bytes(bytes) = response { Some(bytes.to_vec()) } else { None }
        })
    }

    /// Asks until the answer comes; `read` takes it.
    fn ask<T>(&mut self, body: Request<'_>, read: &mut dyn FnMut(Response<'_>) -> Option<T>) -> Result<T, Fault> {
        self.number = self.number.wrapping_add(1);
        let message = Message { session: self.session, number: self.number, body };
        let mut frame = [0; FRAME_BYTES];
        let length = encode(&message, &mut self.scratch, &mut frame).ok_or(WireError::Confused)?;
        let started = Instant::now();
        let mut wait = self.repeat;
        while started.elapsed() < self.patience {
            self.link.send(&frame[..length])?;
            let until = Instant::now() + wait;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let Some(byte) = self.bytes.pop_front() else {
                    let mut bytes = [0; FRAME_BYTES];
                    let came = self.link.receive(&mut bytes, left)?;
                    self.bytes.extend(&bytes[..came]);
                    continue;
                };
                if !self.incoming.push(byte) {
                    continue;
                }
                let Some(answer) = self.incoming.message::<Response<'_>>() else { continue };
                if answer.session != self.session || answer.number != self.number {
                    continue;
                }
                return match answer.body {
                    Response::Lost => Err(Fault::Lost),
                    Response::Refused(why) => Err(WireError::Refused(why.to_owned()).into()),
                    other => read(other).ok_or(WireError::Confused.into()),
                };
            }
            wait = (2 * wait).min(self.patience / 8).max(self.repeat);
        }
        Err(WireError::Silent(self.patience).into())
    }
}

/// [`ModelInfo::id`] of a model.
fn id_of(model: &[u8]) -> Result<u32, WireError> {
    let bytes = model.get(field::PAYLOAD_CRC..).and_then(|bytes| bytes.first_chunk());
    bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(|| WireError::Model("the file is no model".to_owned()))
}
