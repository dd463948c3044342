//! Checks the frame of a file: header, checksums, section table.

use super::{CRC, HEADER_BYTES, MAGIC, Profile, SECTION_ALIGN, SECTION_ENTRY_BYTES, SectionKind, VERSION_MAJOR};
use super::{VERSION_MINOR, align_up, field};
use core::fmt;

/// Why a file is not a model this reader can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes do not begin with the magic of a model file.
    NotAModel,
    /// The slice does not start at a multiple of 16 bytes.
    Misaligned,
    /// The file is shorter or longer than its header says.
    Length {
        /// Bytes the header promises.
        expected: u32,
        /// Bytes given.
        given: u32,
    },
    /// Written for a newer or incompatible reader.
    Version {
        /// Major version of the file.
        major: u16,
        /// Minor version of the file.
        minor: u16,
    },
    /// A checksum does not match: the file is damaged.
    Checksum,
    /// The section table is inconsistent.
    Section,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAModel => f.write_str("not a .sfm model (wrong magic); convert one with `shiftformer convert`"),
            Self::Misaligned => {
                f.write_str("the model must start at an address divisible by 16; align the include_bytes!")
            }
            Self::Length { expected, given } => {
                write!(f, "the model has {given} bytes but its header says {expected}; copy it again")
            }
            Self::Version { major, minor } => write!(
                f,
                "model format {major}.{minor} is not readable by this version ({VERSION_MAJOR}.{VERSION_MINOR}); update or convert again"
            ),
            Self::Checksum => f.write_str("checksum mismatch: the model is damaged; copy or convert it again"),
            Self::Section => f.write_str("the section table is inconsistent; convert the model again"),
        }
    }
}

impl core::error::Error for FormatError {}

/// The sections of a file whose frame has been checked.
#[derive(Clone, Copy)]
pub struct Sections<'m> {
    /// The whole file.
    pub file: &'m [u8],
    /// Numeric profile.
    pub profile: Profile,
    /// Arena bytes a session needs.
    pub arena_bytes: usize,
    /// Number of operators.
    pub n_ops: usize,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Section contents by kind; empty where absent.
    sections: [&'m [u8]; SectionKind::ALL.len()],
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

impl<'m> Sections<'m> {
    /// Checks magic, version, lengths, checksums and the section table of `file`.
    ///
    /// # Errors
    /// [`FormatError`]; the first fault found.
    pub fn read(file: &'m [u8]) -> Result<Self, FormatError> {
        Self::framed(file, true)
    }

    /// [`read`](Self::read) of a file whose checksums were compared when the firmware was built.
    ///
    /// # Errors
    /// [`FormatError`]; the first fault found.
    pub(crate) fn read_proven(file: &'m [u8]) -> Result<Self, FormatError> {
        Self::framed(file, false)
    }

    fn framed(file: &'m [u8], compare_checksums: bool) -> Result<Self, FormatError> {
        if file.first_chunk() != Some(&MAGIC) {
            return Err(FormatError::NotAModel);
        }
        if !(file.as_ptr() as usize).is_multiple_of(SECTION_ALIGN) {
            return Err(FormatError::Misaligned);
        }
        let short = FormatError::Length { expected: HEADER_BYTES as u32, given: file.len() as u32 };
        let header = file.get(..HEADER_BYTES).ok_or(short)?;
        let half = |offset| u16_at(header, offset).ok_or(short);
        let word = |offset| u32_at(header, offset).ok_or(short);
        let (major, minor) = (half(field::MAJOR)?, half(field::MINOR)?);
        if major != VERSION_MAJOR || minor > VERSION_MINOR {
            return Err(FormatError::Version { major, minor });
        }
        let expected = word(field::FILE_BYTES)?;
        if expected as usize != file.len() {
            return Err(FormatError::Length { expected, given: file.len() as u32 });
        }
        let header_bytes = word(field::HEADER_BYTES)? as usize;
        let n_sections = usize::from(half(field::N_SECTIONS)?);
        if header_bytes != align_up(HEADER_BYTES + n_sections * SECTION_ENTRY_BYTES) {
            return Err(FormatError::Section);
        }
        let (head, payload) = file.split_at_checked(header_bytes).ok_or(FormatError::Section)?;
        if compare_checksums {
            let same = header_crc(head) == Some(word(field::HEADER_CRC)?)
                && CRC.checksum(payload) == word(field::PAYLOAD_CRC)?;
            if !same {
                return Err(FormatError::Checksum);
            }
        }
        let mut sections: [&[u8]; SectionKind::ALL.len()] = [&[]; SectionKind::ALL.len()];
        let table = head.get(HEADER_BYTES..).ok_or(FormatError::Section)?;
        for entry in table.chunks_exact(SECTION_ENTRY_BYTES).take(n_sections) {
            let (kind, section) = section_of(file, header_bytes, entry).ok_or(FormatError::Section)?;
            // A kind beyond those known is one a reader may skip, by the version rule.
            for (slot, known) in sections.iter_mut().zip(SectionKind::ALL) {
                if known as u32 == kind {
                    *slot = section;
                }
            }
        }
        let profile = header.get(field::PROFILE).copied().and_then(Profile::from_byte);
        Ok(Self {
            file,
            profile: profile.ok_or(FormatError::Section)?,
            arena_bytes: word(field::ARENA_BYTES)? as usize,
            n_ops: usize::from(half(field::N_OPS)?),
            n_tensors: usize::from(half(field::N_TENSORS)?),
            sections,
        })
    }

    /// Sections that lie in memory apart, for tools that run a model without writing it: no frame, no checksums. A model
    /// [of them](crate::Model::of_sections) is checked like any other. `None` where the weights do not start at a
    /// multiple of 16 bytes.
    pub fn apart(
        profile: Profile,
        arena_bytes: usize,
        [n_ops, n_tensors]: [usize; 2],
        parts: &[(SectionKind, &'m [u8])],
    ) -> Option<Self> {
        let none = Self { file: &[], profile, arena_bytes, n_ops, n_tensors, sections: [&[]; SectionKind::ALL.len()] };
        let sections = parts.iter().fold(none, |sections, &(kind, bytes)| sections.with(kind, bytes));
        let weights = sections.get(SectionKind::Weights);
        (weights.as_ptr() as usize).is_multiple_of(SECTION_ALIGN).then_some(sections)
    }

    /// The same with other contents of one section.
    pub(crate) fn with(mut self, kind: SectionKind, bytes: &'m [u8]) -> Self {
        if let Some(section) = self.sections.get_mut(place(kind)) {
            *section = bytes;
        }
        self
    }

    /// The bytes of a section, empty where the file has none.
    pub fn get(&self, kind: SectionKind) -> &'m [u8] {
        self.sections.get(place(kind)).copied().unwrap_or(&[])
    }
}

/// Place of a kind in [`SectionKind::ALL`], which lists them by their codes from 1 on.
fn place(kind: SectionKind) -> usize {
    (kind as usize).wrapping_sub(1)
}

/// CRC of header and section table with the CRC field itself taken as zero; `None` when `head` is too short.
pub fn header_crc(head: &[u8]) -> Option<u32> {
    let mut digest = CRC.digest();
    digest.update(head.get(..field::HEADER_CRC)?);
    digest.update(&[0; 4]);
    digest.update(head.get(field::HEADER_CRC + 4..)?);
    Some(digest.finalize())
}

fn section_of<'m>(file: &'m [u8], header_bytes: usize, entry: &[u8]) -> Option<(u32, &'m [u8])> {
    let kind = u32_at(entry, 0)?;
    let offset = u32_at(entry, 4)? as usize;
    let bytes = u32_at(entry, 8)? as usize;
    if !offset.is_multiple_of(SECTION_ALIGN) || offset < header_bytes {
        return None;
    }
    Some((kind, file.get(offset..)?.get(..bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_by_their_codes() {
        assert!(SectionKind::ALL.iter().enumerate().all(|(index, &kind)| place(kind) == index));
    }
}
