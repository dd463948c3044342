//! What the fuzz targets do with a string of bytes, and the programs they are without libFuzzer.

use embassy_futures::block_on;
use embedded_storage_async::nor_flash::{ErrorType, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use shiftformer::format::{CRC, MAGIC, field, header_crc};
use shiftformer::kernels::Portable;
use shiftformer::ops::OpTable;
use shiftformer::{Model, Progress, Session};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::import::{ImportOptions, import_bytes};
use shiftformer_convert::tokenizer::section_of_json;
use shiftformer_stream::{Memory, Streamed, image};
use shiftformer_transport::{Decoder, TransportError};
use shiftformer_wire::{CHUNK, Device, FRAME_BYTES, Message, Request, Scratch, encode, serve};
use std::convert::Infallible;
use std::{env, fs, io};

/// Largest arena that is tried: a file of a few bytes may ask for gigabytes.
const MAX_ARENA_BYTES: usize = 1 << 22;
/// Steps of a model that are run: a file may ask for more work than anyone waits for.
const MAX_STEPS: usize = 1 << 10;

/// Segments of an image that are read: a table of a few bytes may name millions.
const MAX_SEGMENTS: u32 = 64;
/// Bytes that the decoder is given at a time, and bytes that it gives.
const PIECE: usize = 100;
/// Memory of a device.
const DEVICE_BYTES: usize = 1 << 15;

/// Opens `bytes` as a container, as they are and with right checksums, and steps through the model they hold.
pub fn read(bytes: &[u8]) {
    open(bytes);
    let mut repaired = bytes.to_vec();
    if repair(&mut repaired).is_some() {
        open(&repaired);
    }
}

/// Reads `bytes` as an ONNX model.
pub fn import(bytes: &[u8]) {
    // An error is as good an answer as a graph.
    let _ = import_bytes(bytes, None, &ImportOptions::default());
}

/// Reads `bytes` as samples.
pub fn read_samples(bytes: &[u8]) {
    // Names and sizes are checked; an error is as good an answer as samples.
    let _ = Dataset::from_bytes(bytes.to_vec(), "fuzz.npz");
}

/// Reads `bytes` as the tokenizer.json of a model with 64 tokens, and opens what is made of it.
pub fn read_tokenizer(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    // An error is as good an answer as a tokenizer.
    let _ = section_of_json(json, "fuzz.json", 64, 0.05);
}

/// Runs the model in a flash that holds `bytes`, as they are and as the segments of an image with right checksums: what starts
/// like a file is one.
pub fn run_image(bytes: &[u8]) {
    run_flash(bytes.to_vec());
    let starts: Vec<usize> =
        bytes.windows(MAGIC.len()).enumerate().filter(|(_, four)| **four == MAGIC).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let mut segments: Vec<Vec<u8>> = starts.iter().zip(ends).map(|(&start, end)| bytes[start..end].to_vec()).collect();
    for segment in &mut segments {
        // What cannot be repaired is refused for that.
        let _ = repair(segment);
    }
    if let Ok(image) = image(&segments, MAX_ARENA_BYTES, &[]) {
        run_flash(image);
    }
}

fn run_flash(bytes: Vec<u8>) {
    block_on(async {
        let Ok(mut streamed) = Streamed::open(Flash(bytes), 0).await else { return };
        let header = *streamed.header();
        if header.segments > MAX_SEGMENTS || header.arena_bytes as usize > MAX_ARENA_BYTES {
            return;
        }
        let size = (header.segment_bytes as usize).min(MAX_ARENA_BYTES);
        let (mut first, mut second) = (Aligned::new(size), Aligned::new(size));
        let mut arena = Aligned::new(header.arena_bytes as usize);
        // The second run finds proven what the first one has proven.
        for _ in 0..2 {
            let memory = Memory { buffers: [first.bytes(), second.bytes()], arena: arena.bytes() };
            // An error is as good an answer as outputs.
            let _ = streamed.run::<Portable>(memory, OpTable::ALL, |_, input| input.fill(1), |_, _| {}).await;
        }
    });
}

/// A flash in memory.
struct Flash(Vec<u8>);

/// There is no such place in it.
#[derive(Debug)]
struct Beyond;

impl NorFlashError for Beyond {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

impl ErrorType for Flash {
    type Error = Beyond;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Beyond> {
        let place = self.0.get(offset as usize..).and_then(|rest| rest.get(..bytes.len())).ok_or(Beyond)?;
        bytes.copy_from_slice(place);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }
}

/// Decodes `bytes` as a model in its transport form, alone and as a change to another model.
pub fn unpack(bytes: &[u8]) {
    for base in [&[], &include_bytes!("../corpus/reader/dense.sfm")[..]] {
        // An error is as good an answer as a model.
        let _ = decode(bytes, base);
    }
}

fn decode(bytes: &[u8], base: &[u8]) -> Result<(), TransportError> {
    let (mut decoder, mut out) = (Decoder::new(base), [0; PIECE]);
    for mut piece in bytes.chunks(PIECE) {
        loop {
            let moved = decoder.push(piece, &mut out)?;
            piece = &piece[moved.read..];
            if piece.is_empty() && moved.written < out.len() {
                break;
            }
        }
    }
    decoder.finish()
}

/// Serves a line that says `bytes`, as they are and as requests in frames: every stretch between zeros is one.
pub fn serve_line(bytes: &[u8]) {
    serve_bytes(bytes.to_vec());
    let (mut framed, mut scratch, mut frame) = (Vec::new(), Scratch::new(), [0; FRAME_BYTES]);
    for (number, part) in (1..).zip(bytes.split(|&byte| byte == 0)) {
        let message = Message { session: 1, number, body: request(part) };
        let length = encode(&message, &mut scratch, &mut frame).unwrap_or(0);
        framed.extend_from_slice(&frame[..length]);
    }
    serve_bytes(framed);
}

/// A request made of any bytes.
fn request(bytes: &[u8]) -> Request<'_> {
    let (kind, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let word = |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let short = word(0) as u16 % 64;
    let bytes = rest.get(4..).unwrap_or(&[]);
    let bytes = &bytes[..bytes.len().min(CHUNK)];
    match kind % 10 {
        0 => Request::Hello,
        1 => Request::Input { index: short % 2, offset: word(0) >> 24, bytes },
        2 => Request::Run { keep: (short > 8).then_some(short) },
        3 => Request::Output { index: short % 2, offset: word(0) >> 16 },
        4 => Request::Ops { first: short },
        5 => Request::Receipt { index: short % 4 },
        6 => Request::Upload { bytes: word(0) % 8192 },
        7 => Request::Model { offset: word(0) >> 16, bytes },
        8 => Request::Kept { offset: word(0) >> 16 },
        9.. => Request::Open { crc: word(0) },
    }
}

fn serve_bytes(bytes: Vec<u8>) {
    let file = include_bytes!("../corpus/reader/dense.sfm");
    let (mut model, mut memory) = (Aligned::new(file.len()), Aligned::new(DEVICE_BYTES));
    model.bytes().copy_from_slice(file);
    let device = Device { board: "fuzz", counter_hz: 0, ticks: || 0 };
    let line = Line { bytes, at: 0 };
    // The line ends where its bytes do.
    let _ = serve::<Portable, _>(&device, memory.bytes(), model.bytes(), line);
}

/// A line that says its bytes and then ends; what is answered is dropped.
struct Line {
    bytes: Vec<u8>,
    at: usize,
}

impl embedded_io::ErrorType for Line {
    type Error = Infallible;
}

impl embedded_io::Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl embedded_io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn open(bytes: &[u8]) {
    let mut file = Aligned::new(bytes.len());
    file.bytes().copy_from_slice(bytes);
    let Ok(model) = Model::open(file.bytes()) else { return };
    if model.arena_bytes() > MAX_ARENA_BYTES {
        return;
    }
    let mut arena = Aligned::new(model.arena_bytes());
    let Ok(mut session) = Session::new(&model, arena.bytes()) else { return };
    for _ in 0..MAX_STEPS {
        match session.step() {
            Ok(Progress::Running { .. }) => {}
            Ok(Progress::Done) | Err(_) => return,
        }
    }
}

/// Puts the checksums into the header that belong to the rest; `None` where the sizes in it leave no room for that.
fn repair(file: &mut [u8]) -> Option<()> {
    let word = |file: &[u8], at: usize| Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?) as usize);
    let (header, all) = (word(file, field::HEADER_BYTES)?, word(file, field::FILE_BYTES)?);
    let payload = CRC.checksum(file.get(header..all)?);
    file.get_mut(field::PAYLOAD_CRC..)?.first_chunk_mut::<4>().map(|to| *to = payload.to_le_bytes())?;
    let header = header_crc(file.get(..header)?)?;
    file.get_mut(field::HEADER_CRC..)?.first_chunk_mut::<4>().map(|to| *to = header.to_le_bytes())
}

/// Bytes at an address divisible by 16.
struct Aligned {
    words: Vec<u128>,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(size_of::<u128>())], len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        &mut bytes[..self.len]
    }
}

/// Calls `target` with each of the files that the program is given.
///
/// # Errors
/// When a file cannot be read.
pub fn each_file(target: fn(&[u8])) -> io::Result<()> {
    env::args_os().skip(1).try_for_each(|path| {
        target(&fs::read(path)?);
        Ok(())
    })
}
