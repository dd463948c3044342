//! Models on their way to a device: `.sfm` files with entropy-coded weights, and changes to the model that is there.
//!
//! The transport form is lossless. A device decodes it as a stream: bytes come in pieces of any length, a model leaves in pieces
//! of any length, for the slot of an update for instance. The [`Decoder`] has a fixed size (about 11 KB) and no other memory; a
//! change reads the old model where it lies in flash.
//!
//! # Form
//!
//! A header of eight little-endian words: magic, layout, bytes of the model, its CRC-32, bytes of the model it is a change to (0:
//! none), its CRC-32, bytes of code that follow, CRC-32 of the words before. Then the code of a binary range coder with adaptive
//! probabilities (Martin 1979; carries as in LZMA).
//!
//! A model is coded in blocks of [`BLOCK`] bytes, each by the statistics that take the fewest bits: of [weights](Mode::Bytes), of
//! the [bytes of words](Mode::Words) (biases, multipliers), of [repetitions](Mode::Text) within the last 2 KB (records, names), or
//! of the [differences](Mode::Base) to bytes of the old model.
//!
//! ```
//! use shiftformer_transport::{Decoder, TransportError};
//!
//! /// Hands a model to `store` as it arrives in `pieces`.
//! fn receive(old: &[u8], pieces: &[&[u8]], mut store: impl FnMut(&[u8])) -> Result<(), TransportError> {
//!     let mut decoder = Decoder::new(old);
//!     let mut out = [0; 256];
//!     for mut piece in pieces.iter().copied() {
//!         loop {
//!             let moved = decoder.push(piece, &mut out)?;
//!             store(&out[..moved.written]);
//!             piece = &piece[moved.read..];
//!             if piece.is_empty() && moved.written < out.len() {
//!                 break;
//!             }
//!         }
//!     }
//!     // What is missing, or does not have its checksum, is an error.
//!     decoder.finish()
//! }
//! ```
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

mod coder;
mod decode;
#[cfg(feature = "std")]
mod encode;
mod statistics;

use core::fmt;
pub use decode::{Decoder, Moved};
#[cfg(feature = "std")]
pub use encode::pack;
pub use statistics::{BLOCK, Mode};

/// First bytes of the transport form.
pub const MAGIC: [u8; 4] = *b"SFT\x1a";
/// Layout of header and code.
const LAYOUT: u32 = 1;
/// Words of the header.
const WORDS: usize = 8;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 4 * WORDS;

/// What stands before the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the model.
    pub model_bytes: u32,
    /// CRC-32 of the model.
    pub model_crc: u32,
    /// Bytes of the model it is a change to; 0 where it stands alone.
    pub base_bytes: u32,
    /// CRC-32 of the model it is a change to.
    pub base_crc: u32,
    /// Bytes of code.
    pub code_bytes: u32,
}

/// Why a model does not come out of its transport form. What was written before is to be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The first bytes are those of something else.
    NotTransport,
    /// The layout is not that of this version.
    Layout(u32),
    /// It is a change to another model than the one that is there.
    OtherBase {
        /// Bytes of the model it is a change to.
        bytes: u32,
        /// Its CRC-32.
        crc: u32,
    },
    /// A checksum does not match.
    Damaged,
    /// It ends too early.
    Short,
    /// It goes on behind its end.
    Long,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTransport => f.write_str("not a model in transport form; make one with `shiftformer pack`"),
            Self::Layout(layout) => {
                write!(f, "transport layout {layout} is not known here ({LAYOUT}); pack the model again")
            }
            Self::OtherBase { bytes, crc } => write!(
                f,
                "a change to a model of {bytes} bytes with the checksum {crc:08x}, which is not the one given; pack the whole model"
            ),
            Self::Damaged => f.write_str("checksum mismatch: the bytes are damaged; transfer them again"),
            Self::Short => f.write_str("the bytes end too early; transfer them again"),
            Self::Long => f.write_str("there are bytes behind the end of the model; transfer it again"),
        }
    }
}

impl core::error::Error for TransportError {}

impl Header {
    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// [`TransportError::Short`] where there are fewer, [`TransportError::NotTransport`], [`TransportError::Layout`], or
    /// [`TransportError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TransportError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(TransportError::Short)?;
        let mut words = [0; WORDS];
        words.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(word, from)| *word = u32::from_le_bytes(*from));
        let [magic, layout, model_bytes, model_crc, base_bytes, base_crc, code_bytes, crc] = words;
        if magic.to_le_bytes() != MAGIC {
            return Err(TransportError::NotTransport);
        }
        if layout != LAYOUT {
            return Err(TransportError::Layout(layout));
        }
        let checked = bytes.split_last_chunk::<4>().map_or(&[][..], |(checked, _)| checked);
        if shiftformer::format::CRC.checksum(checked) != crc {
            return Err(TransportError::Damaged);
        }
        Ok(Self { model_bytes, model_crc, base_bytes, base_crc, code_bytes })
    }

    #[cfg(feature = "std")]
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let Self { model_bytes, model_crc, base_bytes, base_crc, code_bytes } = *self;
        let magic = u32::from_le_bytes(MAGIC);
        let words = [magic, LAYOUT, model_bytes, model_crc, base_bytes, base_crc, code_bytes];
        let mut bytes = [0; HEADER_BYTES];
        let (checked, crc) = bytes.split_at_mut(HEADER_BYTES - 4);
        checked.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
        crc.copy_from_slice(&shiftformer::format::CRC.checksum(checked).to_le_bytes());
        bytes
    }
}
