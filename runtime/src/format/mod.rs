//! The `.sfm` container: any bytes in, an error or a checked set of views out.
//!
//! # Byte layout, version 1
//!
//! All numbers are little-endian. The file is one header, one section table, then the sections, each starting at a
//! multiple of [`SECTION_ALIGN`] bytes; gaps are zero.
//!
//! | offset | size | header field |
//! |---|---|---|
//! | 0 | 4 | magic `SFM\x1a` |
//! | 4 | 2 | major version: a reader refuses any other |
//! | 6 | 2 | minor version: a reader refuses a higher one |
//! | 8 | 4 | `header_bytes`: header and section table, multiple of 16 |
//! | 12 | 4 | `file_bytes` |
//! | 16 | 4 | `arena_bytes` a session needs |
//! | 20 | 2 | number of operators |
//! | 22 | 2 | number of tensors |
//! | 24 | 2 | number of sections |
//! | 26 | 1 | numeric profile ([`Profile`]) |
//! | 27 | 1 | reserved, zero |
//! | 28 | 4 | CRC-32 of bytes `header_bytes .. file_bytes` |
//! | 32 | 4 | CRC-32 of bytes `0 .. header_bytes` with this field taken as zero |
//! | 36 | 12 | reserved, zero |
//!
//! A section table entry is 16 bytes: kind `u32` ([`SectionKind`]), offset `u32`, length in bytes `u32`, reserved zero.
//!
//! | section | content |
//! |---|---|
//! | `Ops` | [`OpRecord`]s of [`OpRecord::BYTES`], in the order of execution; chained ones in blocks of rows (1.1), in models with state some with fewer pieces for fewer rows (1.7) |
//! | `Tensors` | [`TensorRecord`]s of [`TensorRecord::BYTES`] |
//! | `Params` | `u32` words; an operator's parameters lie at `params_offset ..` (see `ops`) |
//! | `Weights` | packed weights, biases, multipliers and tables, each blob 16-byte aligned |
//! | `Io` | `u16` count of inputs, `u16` count of outputs, then the tensor indices as `u16` |
//! | `Certificate` | one [`CertRecord`] per operator |
//! | `Receipts` | reference inputs and the digest of every operator for them, see [`Receipts`] |
//! | `State` | for models that keep state between runs (1.2): [`StateLayout`]; tensors in it may have fewer rows than there are positions (1.6) |
//! | `Text` | tokenizer and units of the logits: [`crate::text::TextLayout`]; a reader may skip it |
//! | `Labels` | `u32` index of an output, then the UTF-8 names of its classes, `\n` between them; may be missing, and a reader may skip it |
//! | `Annotations` | UTF-8 JSON for people and host tools (names, scales). A device never reads it; it may be stripped |
//!
//! # Version rule
//!
//! The **major** version rises when a version 1 reader would compute something else or read out of place: a changed
//! field, packing, or operator meaning. The **minor** version rises when something is added that an older reader must
//! refuse by name only: a new operator kind, element type or section it cannot skip. A new section that a reader may
//! skip changes neither.

mod reader;
mod receipts;
mod record;
mod words;

pub use reader::{FormatError, Sections, header_crc};
pub use receipts::{Receipt, Receipts};
pub use record::{CertRecord, MAX_INPUTS, MAX_RANK, NO_TENSOR, OpRecord, Place, StateLayout, TensorRecord, TensorSlot};
pub use words::{Blob, ReadWords, Word, WriteWords};
pub(crate) use words::{codes, op_params};

/// First four bytes of a model file.
pub const MAGIC: [u8; 4] = *b"SFM\x1a";
/// The one major version this reader understands.
pub const VERSION_MAJOR: u16 = 1;
/// The highest minor version this reader understands.
pub const VERSION_MINOR: u16 = VERSION_MINOR_BY_ROWS;
/// The minor version with chains of row blocks: [`OpRecord::chained`] and [`TensorRecord::window`].
pub const VERSION_MINOR_CHAINS: u16 = 1;
/// The minor version with state between runs: [`StateLayout`] and [`Place::State`].
pub const VERSION_MINOR_STATE: u16 = 2;
/// The minor version with operators over 16-bit activations.
pub const VERSION_MINOR_I16: u16 = 3;
/// The minor version with compressed embedding tables and products by addition.
pub const VERSION_MINOR_FORMATS: u16 = 4;
/// The minor version with weights of 2 and 3 bits.
pub const VERSION_MINOR_FEW_BITS: u16 = 5;
/// The minor version with tensors in the state that have fewer rows than there are positions, and with layers of look-ups.
pub const VERSION_MINOR_WINDOWS: u16 = 6;
/// The minor version with operators that say that they work by rows: [`OpRecord::by_rows`].
pub const VERSION_MINOR_BY_ROWS: u16 = 7;
/// Bytes of the fixed header, before the section table.
pub const HEADER_BYTES: usize = 48;
/// Bytes of one section table entry.
pub const SECTION_ENTRY_BYTES: usize = 16;
/// Alignment of sections, weight blobs and arena tensors; also what the caller must give the file and the arena.
pub const SECTION_ALIGN: usize = 16;

/// Byte offsets of the header fields.
pub mod field {
    #![allow(missing_docs)]
    pub const MAJOR: usize = 4;
    pub const MINOR: usize = 6;
    pub const HEADER_BYTES: usize = 8;
    pub const FILE_BYTES: usize = 12;
    pub const ARENA_BYTES: usize = 16;
    pub const N_OPS: usize = 20;
    pub const N_TENSORS: usize = 22;
    pub const N_SECTIONS: usize = 24;
    pub const PROFILE: usize = 26;
    pub const PAYLOAD_CRC: usize = 28;
    pub const HEADER_CRC: usize = 32;
}

/// CRC-32/ISO-HDLC, the checksum of header and payload.
pub const CRC: crc::Crc<u32, crc::Table<1>> = crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// Operator records.
    Ops = 1,
    /// Tensor records.
    Tensors = 2,
    /// Integer parameters of the operators.
    Params = 3,
    /// Weights, biases, multipliers, tables.
    Weights = 4,
    /// Indices of input and output tensors.
    Io = 5,
    /// Proven bounds per operator.
    Certificate = 6,
    /// Reference inputs and operator digests.
    Receipts = 7,
    /// Names and scales, for hosts and people.
    Annotations = 8,
    /// Size of the state, positions and rows per run.
    State = 9,
    /// Tokenizer of a language model.
    Text = 10,
    /// Names of the classes of an output.
    Labels = 11,
}

impl SectionKind {
    /// All kinds this version knows.
    pub const ALL: [SectionKind; 11] = [
        SectionKind::Ops,
        SectionKind::Tensors,
        SectionKind::Params,
        SectionKind::Weights,
        SectionKind::Io,
        SectionKind::Certificate,
        SectionKind::Receipts,
        SectionKind::Annotations,
        SectionKind::State,
        SectionKind::Text,
        SectionKind::Labels,
    ];
}

/// The numeric profile a model was converted for: which definition its nonlinearities follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Profile {
    /// Shift-and-add nonlinearities with the constants of this project (default).
    Shift = 0,
    /// The published I-ViT operators, bit for bit.
    Ivit = 1,
    /// 256-entry tables of the correctly rounded functions where the input has 8 bits.
    Lut = 2,
    /// As [`Shift`](Profile::Shift), and products of dense layers by L-Mul: additions of floating-point patterns.
    Lmul = 3,
}

impl Profile {
    /// The profile with this header byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Profile::Shift),
            1 => Some(Profile::Ivit),
            2 => Some(Profile::Lut),
            3 => Some(Profile::Lmul),
            _ => None,
        }
    }
}

/// `n` rounded up to a multiple of [`SECTION_ALIGN`].
pub const fn align_up(n: usize) -> usize {
    n.next_multiple_of(SECTION_ALIGN)
}
