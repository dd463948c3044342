//! The device's side.

use crate::frame::{Collector, FRAME_BYTES, Scratch, encode};
use crate::message::{CHUNK, Info, Message, ModelInfo, OpResult, PROTOCOL, Request, Response};
use core::fmt::{Display, Write as _};
use embedded_io::{Read, Write};
use shiftformer::format::{CRC, Receipt, SECTION_ALIGN, field};
use shiftformer::kernels::Kernels;
use shiftformer::ops::OpTable;
use shiftformer::{Digests, Model, Observer, Part, RunFault, Session};

/// A text that an answer carries.
type Text = heapless::String<192>;

/// What a device says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Device<'d> {
    /// Its name, at most 40 bytes.
    pub board: &'d str,
    /// Ticks of the counter in a second; 0 where there is none.
    pub counter_hz: u32,
    /// The counter, which wraps around.
    pub ticks: fn() -> u32,
}

/// Serves the line until it ends: answers every request with the model that was uploaded last, at first `built_in` (no bytes: none).
///
/// `memory`, aligned to 16 bytes, holds an uploaded model, the results of operators, the state and the arena.
///
/// # Errors
/// Those of the line; `Ok` where it has ended.
pub fn serve<B: Kernels, IO: Read + Write>(
    device: &Device<'_>,
    memory: &mut [u8],
    built_in: &[u8],
    io: IO,
) -> Result<(), IO::Error> {
    // Whole blocks of 16 bytes: what is behind a model is aligned as it is.
    let whole = memory.len() / SECTION_ALIGN * SECTION_ALIGN;
    let memory = memory.get_mut(..whole).unwrap_or(&mut []);
    let mut line = Line { io, scratch: Scratch::new(), frame: [0; FRAME_BYTES], sent: 0, session: 0, number: 0 };
    let mut incoming = Collector::new();
    let mut talk = Talk { device, line: &mut line, incoming: &mut incoming, memory_bytes: memory.len() as u32 };
    let mut uploaded = 0usize;
    // The request that the opening of a model answers.
    let mut opening = false;
    loop {
        let next = match memory.split_at_mut_checked(uploaded.next_multiple_of(SECTION_ALIGN)) {
            Some((store, rest)) if uploaded > 0 => {
                talk.with::<B>(store.get(..uploaded).unwrap_or(&[]), rest, opening)?
            }
            Some(_) | None => talk.with::<B>(built_in, memory, opening)?,
        };
        let Some(bytes) = next else { return Ok(()) };
        match talk.upload(memory, bytes)? {
            Some(bytes) => (uploaded, opening) = (bytes, true),
            None => return Ok(()),
        }
    }
}

/// A line and the answer that was sent last.
struct Line<IO> {
    io: IO,
    scratch: Scratch,
    frame: [u8; FRAME_BYTES],
    sent: usize,
    session: u32,
    number: u32,
}

impl<IO: Read + Write> Line<IO> {
    fn answer(&mut self, body: Response<'_>) -> Result<(), IO::Error> {
        let message = Message { session: self.session, number: self.number, body };
        // Every answer fits: chunks and texts are bounded.
        self.sent = encode(&message, &mut self.scratch, &mut self.frame).unwrap_or(0);
        self.again()
    }

    fn again(&mut self) -> Result<(), IO::Error> {
        self.io.write_all(self.frame.get(..self.sent).unwrap_or(&[]))?;
        self.io.flush()
    }

    /// Says that it does not know the session of `request`, without giving up its own.
    fn lost<T>(&mut self, request: &Message<T>) -> Result<(), IO::Error> {
        let message = Message { session: request.session, number: request.number, body: Response::Lost };
        let mut frame = [0; FRAME_BYTES];
        let length = encode(&message, &mut self.scratch, &mut frame).unwrap_or(0);
        self.io.write_all(frame.get(..length).unwrap_or(&[]))?;
        self.io.flush()
    }

    /// The next request that is to be done; `None` at the end of the line. Those that were answered are answered again, those
    /// before are passed over.
    fn request<'c>(&mut self, incoming: &'c mut Collector) -> Result<Option<Request<'c>>, IO::Error> {
        loop {
            let mut byte = [0];
            if self.io.read(&mut byte)? == 0 {
                return Ok(None);
            }
            let [byte] = byte;
            if !incoming.push(byte) {
                continue;
            }
            let Some(message) = incoming.message::<Request<'_>>() else { continue };
            let hello = message.body == Request::Hello;
            let known = message.session == self.session && self.session != 0;
            if known && message.number == self.number {
                self.again()?;
            } else if hello && !known || known && message.number == self.number.wrapping_add(1) {
                (self.session, self.number) = (message.session, message.number);
                // The frame was decoded in place: its bytes stay until the next is collected.
                return Ok(incoming.decoded::<Request<'_>>().map(|message| message.body));
            } else if !known || message.number.wrapping_sub(self.number) < 1 << 31 {
                // A number is left out where a device that started anew took a late copy of the session's greeting: what was
                // asked in between is gone.
                self.lost(&message)?;
            }
        }
    }
}

struct Talk<'t, IO> {
    device: &'t Device<'t>,
    line: &'t mut Line<IO>,
    incoming: &'t mut Collector,
    memory_bytes: u32,
}

fn text(what: impl Display) -> Text {
    let mut text = Text::new();
    // A text that does not fit is cut: the host still sees its beginning.
    let _ = write!(text, "{what}");
    text
}

impl<IO: Read + Write> Talk<'_, IO> {
    fn info<'i>(&self, kernels: &'i str, model: Option<ModelInfo>, fault: &'i str) -> Info<'i>
    where
        Self: 'i,
    {
        let Device { board, counter_hz, .. } = *self.device;
        Info { protocol: PROTOCOL, board, kernels, counter_hz, memory_bytes: self.memory_bytes, model, fault }
    }

    /// Serves with the model `file`; returns the bytes of the next one, `None` at the end of the line.
    fn with<B: Kernels>(&mut self, file: &[u8], memory: &mut [u8], opening: bool) -> Result<Option<u32>, IO::Error> {
        let fault = if file.is_empty() {
            text("the device has no model; upload one")
        } else {
            match Model::<B>::open_with(file, OpTable::<B>::ALL) {
                Ok(model) => match self.split(&model, memory) {
                    Ok(places) => return self.run(&model, places, opening),
                    Err(fault) => fault,
                },
                Err(error) => text(error),
            }
        };
        if opening {
            self.line.answer(Response::Refused(&fault))?;
        }
        loop {
            let Some(request) = self.line.request(self.incoming)? else { return Ok(None) };
            match request {
                Request::Hello => {
                    let info = self.info(B::NAME, None, &fault);
                    self.line.answer(Response::Info(info))?;
                }
                Request::Upload { bytes } if bytes > 0 && bytes <= self.memory_bytes => return Ok(Some(bytes)),
                Request::Upload { .. } => self.no_room()?,
                Request::Input { .. }
                | Request::Run { .. }
                | Request::Kept { .. }
                | Request::Output { .. }
                | Request::Ops { .. }
                | Request::Receipt { .. }
                | Request::Model { .. }
                | Request::Open { .. } => self.line.answer(Response::Refused(&fault))?,
            }
        }
    }

    fn no_room(&mut self) -> Result<(), IO::Error> {
        let why = text(format_args!("the device has {} bytes for a model and its memory", self.memory_bytes));
        self.line.answer(Response::Refused(&why))
    }

    /// The memory of a model: results of operators, state, arena.
    #[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
    fn split<'p, B: Kernels>(&self, model: &Model<'_, B>, memory: &'p mut [u8]) -> Result<Places<'p>, Text> {
        if !memory.as_ptr().addr().is_multiple_of(SECTION_ALIGN) {
            return Err(text("the firmware gives memory that is not aligned to 16 bytes"));
        }
        let results = (model.n_ops() * OpResult::BYTES).next_multiple_of(SECTION_ALIGN);
        let state = model.state_bytes().next_multiple_of(SECTION_ALIGN);
        let needed = results + state + model.arena_bytes();
        let room = memory.len();
        memory
            .split_at_mut_checked(results)
            .and_then(|(results, rest)| rest.split_at_mut_checked(state).map(|(state, arena)| (results, state, arena)))
            .filter(|_| needed <= room)
            .map(|(results, state, arena)| Places { results, state, arena })
            .ok_or_else(|| {
                text(format_args!("the model needs {needed} bytes of memory besides its file; {room} are left"))
            })
    }

    #[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
    fn run<B: Kernels>(
        &mut self,
        model: &Model<'_, B>,
        places: Places<'_>,
        opening: bool,
    ) -> Result<Option<u32>, IO::Error> {
        let Places { results, state, arena } = places;
        let arena_bytes = model.arena_bytes().next_multiple_of(SECTION_ALIGN).min(arena.len());
        let (arena, spare) = arena.split_at_mut(arena_bytes);
        let mut kept = 0;
        let mut session = match Session::with_state(model, arena, state) {
            Ok(session) => session,
            // Length and alignment were looked at.
            Err(_) => return Ok(None),
        };
        let id = model.sections().file.get(field::PAYLOAD_CRC..).and_then(|bytes| bytes.first_chunk());
        let about = ModelInfo {
            id: id.map_or(0, |bytes| u32::from_le_bytes(*bytes)),
            bytes: model.file_bytes() as u32,
            arena_bytes: model.arena_bytes() as u32,
            state_bytes: model.state_bytes() as u32,
            ops: model.n_ops() as u16,
            inputs: model.n_inputs() as u16,
            outputs: model.n_outputs() as u16,
            receipts: model.receipts().len() as u16,
        };
        let info = self.info(B::NAME, Some(about), "");
        if opening {
            self.line.answer(Response::Info(info))?;
        }
        let mut ran = false;
        loop {
            let Some(request) = self.line.request(self.incoming)? else { return Ok(None) };
            match request {
                Request::Hello => {
                    ran = false;
                    self.line.answer(Response::Info(info))?;
                }
                Request::Input { index, offset, bytes } => {
                    let input = session.input_mut(index.into());
                    let to = input
                        .and_then(|input| input.get_mut(offset as usize..))
                        .and_then(|to| to.get_mut(..bytes.len()));
                    match to {
                        Some(to) => {
                            to.copy_from_slice(bytes);
                            self.line.answer(Response::Done)?;
                        }
                        None => self.line.answer(Response::Refused("the model has no such input, or a shorter one"))?,
                    }
                }
                Request::Run { keep } => {
                    session.reset();
                    results.fill(0);
                    let ticks = self.device.ticks;
                    let keep = keep.map(usize::from);
                    let mut watch = Watch { ticks, results, started: 0, spent: 0, keep, spare, kept: 0 };
                    let start = ticks();
                    let done = inference(&mut session, &mut watch);
                    let took = ticks().wrapping_sub(start);
                    kept = watch.kept;
                    ran = done.is_ok() && kept <= spare.len();
                    match done {
                        Ok(()) if ran => self.line.answer(Response::Ran { ticks: took })?,
                        Ok(()) => {
                            self.line.answer(Response::Refused("the device has no memory to keep the output in"))?
                        }
                        Err(fault) => self.line.answer(Response::Refused(&text(fault)))?,
                    }
                }
                Request::Output { .. } | Request::Ops { .. } | Request::Kept { .. } if !ran => {
                    self.line.answer(Response::Refused("the model has not run"))?;
                }
                Request::Kept { offset } => match spare.get(..kept).and_then(|bytes| bytes.get(offset as usize..)) {
                    Some(bytes) => self.line.answer(Response::Bytes(first(bytes, CHUNK)))?,
                    None => self.line.answer(Response::Refused("the output that was kept is shorter"))?,
                },
                Request::Output { index, offset } => {
                    let bytes = session.output(index.into()).and_then(|output| output.get(offset as usize..));
                    match bytes {
                        Some(bytes) => self.line.answer(Response::Bytes(first(bytes, CHUNK)))?,
                        None => {
                            self.line.answer(Response::Refused("the model has no such output, or a shorter one"))?
                        }
                    }
                }
                Request::Ops { first: op } => {
                    let results = results.get(..model.n_ops() * OpResult::BYTES).unwrap_or(&[]);
                    let bytes = results.get(usize::from(op) * OpResult::BYTES..);
                    match bytes {
                        Some(bytes) => {
                            let whole = CHUNK / OpResult::BYTES * OpResult::BYTES;
                            self.line.answer(Response::Bytes(first(bytes, whole)))?;
                        }
                        None => self.line.answer(Response::Refused("the model has no such operator"))?,
                    }
                }
                Request::Receipt { index } => {
                    ran = false;
                    match model.receipts().get(index.into()).map(|receipt| prove(&mut session, &receipt)) {
                        Some(Ok(differs)) => self.line.answer(Response::Receipt { differs })?,
                        Some(Err(fault)) => self.line.answer(Response::Refused(&fault))?,
                        None => self.line.answer(Response::Refused("the model has no such receipt"))?,
                    }
                }
                Request::Upload { bytes } if bytes > 0 && bytes <= self.memory_bytes => return Ok(Some(bytes)),
                Request::Upload { .. } => self.no_room()?,
                Request::Model { .. } | Request::Open { .. } => {
                    self.line.answer(Response::Refused("no model is being uploaded; ask for room first"))?;
                }
            }
        }
    }

    /// Takes a model of `bytes` into memory; its bytes, `None` at the end of the line.
    fn upload(&mut self, memory: &mut [u8], bytes: u32) -> Result<Option<usize>, IO::Error> {
        let mut bytes = bytes as usize;
        self.line.answer(Response::Done)?;
        loop {
            let Some(request) = self.line.request(self.incoming)? else { return Ok(None) };
            let Some(store) = memory.get_mut(..bytes) else { return Ok(None) };
            match request {
                Request::Hello => {
                    let info = self.info("", None, "a model is being uploaded");
                    self.line.answer(Response::Info(info))?;
                }
                Request::Upload { bytes: next } if next > 0 && next <= self.memory_bytes => {
                    bytes = next as usize;
                    self.line.answer(Response::Done)?;
                }
                Request::Upload { .. } => self.no_room()?,
                Request::Model { offset, bytes } => {
                    match store.get_mut(offset as usize..).and_then(|to| to.get_mut(..bytes.len())) {
                        Some(to) => {
                            to.copy_from_slice(bytes);
                            self.line.answer(Response::Done)?;
                        }
                        None => self.line.answer(Response::Refused("there is no room for these bytes of the model"))?,
                    }
                }
                Request::Open { crc } if CRC.checksum(store) == crc => {
                    return Ok(Some(bytes));
                }
                Request::Open { .. } => {
                    self.line.answer(Response::Refused("bytes of the model are missing; upload it again"))?;
                }
                Request::Input { .. }
                | Request::Run { .. }
                | Request::Kept { .. }
                | Request::Output { .. }
                | Request::Ops { .. }
                | Request::Receipt { .. } => self.line.answer(Response::Refused("a model is being uploaded"))?,
            }
        }
    }
}

struct Places<'p> {
    results: &'p mut [u8],
    state: &'p mut [u8],
    arena: &'p mut [u8],
}

fn first(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}

/// Runs the model on a receipt; the first operator that differs.
#[expect(clippy::result_large_err, reason = "there is no heap to put the text of a fault in")]
fn prove<B: Kernels>(session: &mut Session<'_, '_, B>, receipt: &Receipt<'_>) -> Result<Option<u16>, Text> {
    session.reset();
    let model = *session.model();
    let sizes = (0..model.n_inputs()).map_while(|index| model.input(index)).map(|input| input.bytes());
    for (index, bytes) in receipt.inputs(sizes).enumerate() {
        if let Some(input) = session.input_mut(index).filter(|input| input.len() == bytes.len()) {
            input.copy_from_slice(bytes);
        }
    }
    let mut wrong: Option<u16> = None;
    let mut check = Digests::new(|op, digest| {
        if receipt.digest(op) != Some(digest) {
            wrong = wrong.or(Some(op as u16));
        }
    });
    session.run_with(&mut check).map_err(text)?;
    Ok(wrong)
}

/// A call of its own: what is proven of an inference is proven from here.
#[inline(never)]
fn inference<B: Kernels>(session: &mut Session<'_, '_, B>, watch: &mut Watch<'_>) -> Result<(), RunFault> {
    session.run_with(watch)
}

/// Keeps what every operator gives and takes.
struct Watch<'w> {
    ticks: fn() -> u32,
    results: &'w mut [u8],
    started: u32,
    spent: u32,
    /// The operator whose output is kept in `spare`.
    keep: Option<usize>,
    spare: &'w mut [u8],
    /// Bytes that there were to be kept, also those that have no room.
    kept: usize,
}

impl Observer for Watch<'_> {
    fn before(&mut self, _op: usize) {
        self.started = (self.ticks)();
    }

    fn ran(&mut self, _op: usize) {
        self.spent = (self.ticks)().wrapping_sub(self.started);
    }

    fn after(&mut self, op: usize, part: Part<'_>) {
        if self.keep == Some(op) {
            let end = self.kept.saturating_add(part.bytes.len());
            if let Some(to) = self.spare.get_mut(self.kept..end) {
                // Not `copy_from_slice`: nothing that an inference reaches may panic.
                to.iter_mut().zip(part.bytes).for_each(|(to, &from)| *to = from);
            }
            self.kept = end;
        }
        let places = self.results.as_chunks_mut::<{ OpResult::BYTES }>().0;
        let Some(place) = places.get_mut(op) else { return };
        let before = OpResult::decode(place);
        let digest = shiftformer::arith::digest::join(before.digest, part.digest());
        *place = OpResult { digest, ticks: before.ticks.wrapping_add(self.spent) }.encode();
    }
}
