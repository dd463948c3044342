//! What the fuzz targets do with a string of bytes, and the programs they are without libFuzzer.

use shiftformer::format::{CRC, field, header_crc};
use shiftformer::{Model, Progress, Session};
use shiftformer_convert::import::{ImportOptions, import_bytes};
use std::{env, fs, io};

/// Largest arena that is tried: a file of a few bytes may ask for gigabytes.
const MAX_ARENA_BYTES: usize = 1 << 22;
/// Steps of a model that are run: a file may ask for more work than anyone waits for.
const MAX_STEPS: usize = 1 << 10;

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
