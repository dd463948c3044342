//! The encoder: every block by the statistics that take the fewest bits.

use crate::coder::{Bits, Writer};
use crate::statistics::{BLOCK, Mode, Statistics};
use crate::{Header, TransportError};
use shiftformer::format::{CRC, SECTION_ALIGN};
use std::collections::HashMap;
use std::vec::Vec;

/// Distances to the old model that are tried again.
const REMEMBERED: usize = 4;
/// Bytes by which places in the old model are found again: blobs of a model are aligned to as many.
const FOUND_BY: usize = SECTION_ALIGN;

/// Counts bits.
struct Cost {
    bits: f64,
}

impl Bits for Cost {
    fn code(&mut self, zero: u16, bit: u32) -> u32 {
        let zero = f64::from(zero >> 4) / 4096.0;
        self.bits -= if bit == 0 { zero } else { 1.0 - zero }.log2();
        bit
    }
}

/// The transport form of `model`: alone, or as a change to `base`, which the device must have then.
///
/// # Errors
/// [`TransportError::Long`] for files of 4 GiB and more.
pub fn pack(model: &[u8], base: Option<&[u8]>) -> Result<Vec<u8>, TransportError> {
    let size = |bytes: usize| u32::try_from(bytes).map_err(|_| TransportError::Long);
    let old = base.unwrap_or(&[]);
    let places = places(old);
    let mut remembered: Vec<i32> = Vec::new();
    let (mut statistics, mut writer) = (Statistics::new(), Writer::new());
    for (index, block) in model.chunks(BLOCK).enumerate() {
        let first = size(index * BLOCK)?;
        let mut ways: Vec<(Mode, i32)> =
            [Mode::Bytes, Mode::Nibbles, Mode::Words, Mode::Text].map(|mode| (mode, 0)).to_vec();
        if !old.is_empty() {
            let here = found(&places, block, first);
            let ends = old.len() as i64 - model.len() as i64;
            let more = [here, Some(0), i32::try_from(ends).ok()].into_iter().flatten();
            ways.push((Mode::Base, 0));
            let elsewhere =
                more.chain(remembered.iter().copied()).filter(|&distance| distance != statistics.distance());
            ways.extend(elsewhere.map(|distance| (Mode::BaseElsewhere, distance)));
        }
        let cost = |&(mode, distance): &(Mode, i32)| {
            let (mut tried, mut cost) = (statistics.clone(), Cost { bits: 0.0 });
            code(&mut tried, &mut cost, (mode, distance), block, (old, first)).map(|()| cost.bits)
        };
        let costs = ways.iter().filter_map(|way| Some((cost(way)?, *way)));
        // Bytes alone have a way for any block.
        let best = costs.min_by(|a, b| a.0.total_cmp(&b.0)).map_or((Mode::Bytes, 0), |(_, way)| way);
        let _ = code(&mut statistics, &mut writer, best, block, (old, first));
        if best.0 == Mode::BaseElsewhere {
            remembered.retain(|&distance| distance != best.1);
            remembered.insert(0, best.1);
            remembered.truncate(REMEMBERED);
        }
    }
    let code = if model.is_empty() { Vec::new() } else { writer.finish() };
    let header = Header {
        model_bytes: size(model.len())?,
        model_crc: CRC.checksum(model),
        base_bytes: size(old.len())?,
        base_crc: CRC.checksum(old),
        code_bytes: size(code.len())?,
    };
    Ok([&header.encode()[..], &code].concat())
}

/// Codes a block; `None` where the old model has no bytes for it.
fn code(
    statistics: &mut Statistics,
    bits: &mut impl Bits,
    (mode, distance): (Mode, i32),
    block: &[u8],
    (old, first): (&[u8], u32),
) -> Option<()> {
    statistics.block(bits, mode, distance)?;
    for (place, &byte) in (first..).zip(block) {
        statistics.byte(bits, old, place, byte)?;
    }
    Some(())
}

/// Where the pieces of the old model lie: the first place of each.
fn places(old: &[u8]) -> HashMap<&[u8; FOUND_BY], u32> {
    let mut places = HashMap::new();
    for (at, piece) in old.as_chunks().0.iter().enumerate() {
        places.entry(piece).or_insert((at * FOUND_BY) as u32);
    }
    places
}

/// The distance to where the first piece of `block` that the old model has lies there. Pieces of one byte are everywhere.
fn found(places: &HashMap<&[u8; FOUND_BY], u32>, block: &[u8], first: u32) -> Option<i32> {
    let pieces = block.as_chunks::<FOUND_BY>().0.iter().enumerate();
    pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != piece[0])).find_map(|(at, piece)| {
        let place = first as usize + at * FOUND_BY;
        i32::try_from(i64::from(*places.get(piece)?) - place as i64).ok()
    })
}
