//! The words of an image.

use shiftformer::format::CRC;

/// First bytes of an image.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"SFI\x1a");
/// Layout of header and table.
pub(crate) const LAYOUT: u32 = 1;
/// Words of the header before its checksum.
const WORDS: usize = 11;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 4 * (WORDS + 1);
/// Bytes of an entry of the table.
pub(crate) const ENTRY_BYTES: usize = 16;
/// Bytes of a digest.
pub(crate) const DIGEST_BYTES: usize = 8;
/// Bytes of a checksum.
pub(crate) const CRC_BYTES: usize = 4;

/// What stands before the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Segments.
    pub segments: u32,
    /// Bytes of the largest segment: what each of the two buffers needs.
    pub segment_bytes: u32,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Reference runs.
    pub references: u32,
    /// Bytes of the inputs of a reference run.
    pub input_bytes: u32,
    /// Outputs of the model.
    pub outputs: u32,
    /// Where the reference runs start, from the start of the image.
    pub references_at: u32,
    /// Bytes of the image.
    pub bytes: u32,
    /// CRC-32 of the checksums of the segments: no other model has this header.
    pub contents: u32,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    NoImage,
    Layout(u32),
    Damaged,
}

impl Header {
    #[cfg(feature = "std")]
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut words = [0; WORDS + 1];
        words[..WORDS].copy_from_slice(&[
            MAGIC,
            LAYOUT,
            self.segments,
            self.segment_bytes,
            self.arena_bytes,
            self.references,
            self.input_bytes,
            self.outputs,
            self.references_at,
            self.bytes,
            self.contents,
        ]);
        let mut bytes = [0; HEADER_BYTES];
        fill(&mut bytes, &words);
        words[WORDS] = CRC.checksum(&bytes[..4 * WORDS]);
        fill(&mut bytes, &words);
        bytes
    }

    /// The header and its checksum.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderFault> {
        let (words, _) = bytes.as_chunks::<4>();
        let words: &[[u8; 4]; WORDS + 1] = words.first_chunk().ok_or(HeaderFault::Damaged)?;
        let [
            magic,
            layout,
            segments,
            segment_bytes,
            arena_bytes,
            references,
            input_bytes,
            outputs,
            references_at,
            bytes_in_all,
            contents,
            crc,
        ] = words.map(u32::from_le_bytes);
        if magic != MAGIC {
            return Err(HeaderFault::NoImage);
        }
        if layout != LAYOUT {
            return Err(HeaderFault::Layout(layout));
        }
        let checked: &[u8; 4 * WORDS] = bytes.first_chunk().ok_or(HeaderFault::Damaged)?;
        if CRC.checksum(checked) != crc || segments == 0 {
            return Err(HeaderFault::Damaged);
        }
        let header = Self {
            segments,
            segment_bytes,
            arena_bytes,
            references,
            input_bytes,
            outputs,
            references_at,
            bytes: bytes_in_all,
            contents,
        };
        Ok((header, crc))
    }

    /// Bytes of a reference run.
    pub(crate) fn reference_bytes(&self) -> Option<u32> {
        let digests = self.outputs.checked_mul(DIGEST_BYTES as u32)?;
        self.input_bytes.checked_add(digests)?.checked_add(CRC_BYTES as u32)
    }
}

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// From the start of the image.
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    /// CRC-32 of the segment.
    pub(crate) checksum: u32,
}

impl Entry {
    #[cfg(feature = "std")]
    pub(crate) fn encode(&self, header_crc: u32, index: u32) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        fill(&mut bytes, &[self.offset, self.bytes, self.checksum, self.crc(header_crc, index)]);
        bytes
    }

    /// `None` unless it is entry `index` of the image with this header.
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES], header_crc: u32, index: u32) -> Option<Self> {
        let words: &[[u8; 4]; ENTRY_BYTES / 4] = bytes.as_chunks().0.first_chunk()?;
        let [offset, bytes, checksum, crc] = words.map(u32::from_le_bytes);
        let entry = Self { offset, bytes, checksum };
        (crc == entry.crc(header_crc, index)).then_some(entry)
    }

    fn crc(&self, header_crc: u32, index: u32) -> u32 {
        let mut digest = CRC.digest();
        for word in [header_crc, index, self.offset, self.bytes, self.checksum] {
            digest.update(&word.to_le_bytes());
        }
        digest.finalize()
    }
}

#[cfg(feature = "std")]
fn fill(bytes: &mut [u8], words: &[u32]) {
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}
