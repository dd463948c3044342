//! Writing an image, on a host.

use crate::form::{CRC_BYTES, DIGEST_BYTES, ENTRY_BYTES, Entry, HEADER_BYTES, Header};
use core::fmt;
use shiftformer::arith::digest::digest;
use shiftformer::format::{CRC, MAGIC as FILE_MAGIC, SECTION_ALIGN};
use std::vec::Vec;

/// A reference run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Bytes of the inputs, one after the other.
    pub inputs: Vec<u8>,
    /// Bytes of every output.
    pub outputs: Vec<Vec<u8>>,
}

/// Why there is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// A segment is no `.sfm` file.
    Segment(usize),
    /// The reference runs have inputs or outputs of different sizes.
    References,
    /// Nothing to write, or more than offsets of 32 bits reach.
    Size,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "segment {segment} is no model"),
            Self::References => f.write_str("the reference runs differ in the sizes of inputs or outputs"),
            Self::Size => f.write_str("an image has at least one segment, and less than 4 GiB"),
        }
    }
}

impl core::error::Error for ImageError {}

/// The bytes for the flash: `segments` of one model in order, which run over an arena of `arena_bytes`.
///
/// # Errors
/// [`ImageError`] when the parts do not make an image.
pub fn image(segments: &[Vec<u8>], arena_bytes: usize, references: &[Reference]) -> Result<Vec<u8>, ImageError> {
    let small = |bytes: usize| u32::try_from(bytes).map_err(|_| ImageError::Size);
    let sizes = |r: &Reference| (r.inputs.len(), r.outputs.len());
    let (input_bytes, outputs) = references.first().map_or((0, 0), sizes);
    if references.iter().any(|r| sizes(r) != (input_bytes, outputs)) {
        return Err(ImageError::References);
    }
    let (mut entries, mut end) = (Vec::new(), HEADER_BYTES + ENTRY_BYTES * segments.len());
    for (index, segment) in segments.iter().enumerate() {
        if !segment.starts_with(&FILE_MAGIC) {
            return Err(ImageError::Segment(index));
        }
        let checksum = CRC.checksum(segment);
        end = end.next_multiple_of(SECTION_ALIGN);
        entries.push(Entry { offset: small(end)?, bytes: small(segment.len())?, checksum });
        end += segment.len();
    }
    let reference_bytes = input_bytes + DIGEST_BYTES * outputs + CRC_BYTES;
    let header = Header {
        segments: small(segments.len())?,
        segment_bytes: small(segments.iter().map(Vec::len).max().ok_or(ImageError::Size)?)?,
        arena_bytes: small(arena_bytes)?,
        references: small(references.len())?,
        input_bytes: small(input_bytes)?,
        outputs: small(outputs)?,
        references_at: small(end)?,
        bytes: small(end + references.len() * reference_bytes)?,
        contents: checksum_of(&entries),
    };
    let mut image = Vec::from(header.encode());
    let header_crc = CRC.checksum(&image[..HEADER_BYTES - CRC_BYTES]);
    for (index, entry) in (0..).zip(&entries) {
        image.extend(entry.encode(header_crc, index));
    }
    for segment in segments {
        image.resize(image.len().next_multiple_of(SECTION_ALIGN), 0);
        image.extend_from_slice(segment);
    }
    for reference in references {
        let first = image.len();
        image.extend_from_slice(&reference.inputs);
        for output in &reference.outputs {
            image.extend(digest(output).to_le_bytes());
        }
        let crc = CRC.checksum(&image[first..]);
        image.extend(crc.to_le_bytes());
    }
    Ok(image)
}

fn checksum_of(entries: &[Entry]) -> u32 {
    let mut digest = CRC.digest();
    entries.iter().for_each(|entry| digest.update(&entry.checksum.to_le_bytes()));
    digest.finalize()
}
