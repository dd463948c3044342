//! Two slots for models in flash: an update is written beside the model in use and takes its place in one step.
//!
//! ```text
//! slot 0: header (one erase block) | model
//! slot 1: header (one erase block) | model
//! ```
//!
//! The header is written last, over a model that was read back, so it is what makes a slot valid; it says which of two valid
//! slots is newer. An update erases the header of the older slot first. Power that fails at any point leaves the other slot as it
//! was: `tests/power.rs` tries every write, every erase and several ways in which each may be cut off.
//!
//! A slot counts when the checksums of header and model match, its version is not below the one the firmware asks for, and, with
//! the feature `signature`, its signature is that of the key. The caller then opens the model, which is read in place: a slot's
//! model starts at a multiple of the erase size.
//!
//! ```
//! # use embedded_storage::nor_flash::NorFlash;
//! # use shiftformer_slots::{Incoming, SlotError, Slots};
//! /// Takes a model that arrives in chunks.
//! fn receive<F: NorFlash>(flash: F, bytes: u32, chunks: &[&[u8]]) -> Result<(), SlotError<F::Error>> {
//!     let mut slots = Slots::new(flash, 0x40_000..0x80_000)?;
//!     let mut update = slots.update(Incoming { bytes, version: 2, signature: [0; 64] })?;
//!     for chunk in chunks {
//!         update.write(chunk)?;
//!     }
//!     // A real one opens the model at this place in flash.
//!     update.finish(|place| !place.is_empty()).map(|_| ())
//! }
//! ```
#![no_std]
#![deny(unsafe_code)]

use core::fmt;
use core::ops::Range;
use embedded_storage::nor_flash::NorFlash;
use shiftformer::format::{CRC, SECTION_ALIGN};

/// First bytes of a header.
const MAGIC: u32 = u32::from_le_bytes(*b"SFSL");
/// Layout of the header.
const LAYOUT: u32 = 1;
/// Words of a header before the signature: magic, layout, sequence, version, bytes, checksum of the model.
const WORDS: usize = 6;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes that the checksum of the header covers.
const CHECKED_BYTES: usize = 4 * WORDS + SIGNATURE_BYTES;
/// Bytes of a header, a multiple of what any flash writes at once: words, signature, checksum, zeros.
const HEADER_BYTES: usize = 256;
/// Bytes that are read and written at a time.
const CHUNK: usize = 256;

/// What two slots cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotError<E> {
    /// The flash itself.
    Flash(E),
    /// The region is not two slots of whole erase blocks with room for more than a header, or the flash writes more than 256
    /// bytes at once, or less than 16-byte aligned blocks.
    Region,
    /// The model is larger than a slot.
    TooLarge {
        /// Bytes of the model.
        bytes: u32,
        /// Bytes a slot has for it.
        room: u32,
    },
    /// The version is below that of the model in use, or below the one the firmware asks for.
    Rollback {
        /// Version of the update.
        version: u32,
        /// Lowest version that is taken.
        minimum: u32,
    },
    /// More or fewer bytes came than were announced.
    Length,
    /// What was read back is not what was written.
    Written,
    /// The signature is not that of the key.
    Signature,
    /// The caller's proof refused the model.
    Proof,
}

impl<E: fmt::Debug> fmt::Display for SlotError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "the flash failed: {error:?}"),
            Self::Region => f.write_str("the region is not two slots of whole erase blocks"),
            Self::TooLarge { bytes, room } => write!(f, "the model has {bytes} bytes, a slot has room for {room}"),
            Self::Rollback { version, minimum } => {
                write!(f, "version {version} is older than {minimum}; sign the model with a higher version")
            }
            Self::Length => f.write_str("more or fewer bytes came than were announced; send the model again"),
            Self::Written => f.write_str("the flash does not hold what was written to it"),
            Self::Signature => f.write_str("the signature is not that of the key"),
            Self::Proof => f.write_str("the model does not open"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for SlotError<E> {}

/// An update before its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Bytes of the model.
    pub bytes: u32,
    /// Rises with every release: an update with a lower one than that of the model in use is refused.
    pub version: u32,
    /// Ed25519 over the model, then its version as four bytes, little-endian. Any bytes where no key is asked for.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// A model in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it lies in the flash.
    pub place: Range<u32>,
    /// Its version.
    pub version: u32,
    slot: u32,
    sequence: u32,
}

/// Two slots in a region of a flash.
pub struct Slots<F> {
    flash: F,
    start: u32,
    /// Bytes of a slot, header included.
    slot_bytes: u32,
    minimum: u32,
    #[cfg(feature = "signature")]
    key: Option<ed25519_compact::PublicKey>,
}

struct Header {
    sequence: u32,
    version: u32,
    bytes: u32,
    checksum: u32,
    #[cfg_attr(not(feature = "signature"), allow(dead_code))]
    signature: [u8; SIGNATURE_BYTES],
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let words = [MAGIC, LAYOUT, self.sequence, self.version, self.bytes, self.checksum];
        let (checked, rest) = bytes.split_at_mut(CHECKED_BYTES);
        let (head, signature) = checked.split_at_mut(4 * WORDS);
        for (to, word) in head.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        signature.copy_from_slice(&self.signature);
        let checksum = CRC.checksum(checked).to_le_bytes();
        for (to, from) in rest.iter_mut().zip(checksum) {
            *to = from;
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (checked, rest) = bytes.split_first_chunk::<CHECKED_BYTES>()?;
        let (checksum, zeros) = rest.split_first_chunk::<4>()?;
        let (head, signature) = checked.split_first_chunk::<{ 4 * WORDS }>()?;
        let mut words = [0; WORDS];
        for (word, from) in words.iter_mut().zip(head.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*from);
        }
        let [magic, layout, sequence, version, bytes, model_checksum] = words;
        let sane = magic == MAGIC && layout == LAYOUT && zeros.iter().all(|&byte| byte == 0);
        let whole = u32::from_le_bytes(*checksum) == CRC.checksum(checked);
        let signature = *signature.first_chunk()?;
        (sane && whole).then_some(Self { sequence, version, bytes, checksum: model_checksum, signature })
    }
}

impl<F: NorFlash> Slots<F> {
    /// Bytes of an erase block, which a header has for itself.
    const BLOCK: u32 = F::ERASE_SIZE as u32;

    /// Two slots in the halves of `region` of `flash`.
    ///
    /// # Errors
    /// [`SlotError::Region`].
    pub fn new(flash: F, region: Range<u32>) -> Result<Self, SlotError<F::Error>> {
        let block = Self::BLOCK;
        let bytes = region.end.checked_sub(region.start).ok_or(SlotError::Region)?;
        let slot_bytes = bytes / 2;
        let sizes = CHUNK.is_multiple_of(F::WRITE_SIZE.max(1))
            && CHUNK.is_multiple_of(F::READ_SIZE.max(1))
            && F::ERASE_SIZE.is_multiple_of(SECTION_ALIGN)
            && F::ERASE_SIZE >= HEADER_BYTES;
        let whole = sizes && region.start.is_multiple_of(block) && slot_bytes.is_multiple_of(block);
        if !whole || slot_bytes <= block || !bytes.is_multiple_of(2) || region.end as usize > flash.capacity() {
            return Err(SlotError::Region);
        }
        Ok(Self {
            flash,
            start: region.start,
            slot_bytes,
            minimum: 0,
            #[cfg(feature = "signature")]
            key: None,
        })
    }

    /// Takes no version below `minimum`, not even one that is in a slot already: what a firmware no longer runs.
    pub fn not_below(mut self, minimum: u32) -> Self {
        self.minimum = minimum;
        self
    }

    /// Takes only models that the holder of `key` has signed.
    #[cfg(feature = "signature")]
    pub fn signed_by(mut self, key: [u8; 32]) -> Self {
        self.key = Some(ed25519_compact::PublicKey::new(key));
        self
    }

    /// Bytes a slot has for a model.
    pub fn room(&self) -> u32 {
        self.slot_bytes - Self::BLOCK
    }

    /// The flash.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// The model to run: the newer one that is whole; `None` where no slot has any. The caller opens it, and asks for the
    /// [`other`](Self::other) where that fails.
    ///
    /// # Errors
    /// [`SlotError::Flash`].
    pub fn active(&mut self) -> Result<Option<Stored>, SlotError<F::Error>> {
        let [a, b] = [self.stored(0)?, self.stored(1)?];
        Ok(match (a, b) {
            // Sequence numbers wrap around: of two that follow each other the newer is ahead by less than half of all.
            (Some(a), Some(b)) if b.sequence.wrapping_sub(a.sequence) < 1 << 31 => Some(b),
            (Some(a), _) => Some(a),
            (None, b) => b,
        })
    }

    /// The whole model in the other slot than that of `stored`, if there is one.
    ///
    /// # Errors
    /// [`SlotError::Flash`].
    pub fn other(&mut self, stored: &Stored) -> Result<Option<Stored>, SlotError<F::Error>> {
        self.stored(1 - stored.slot.min(1))
    }

    /// Begins an update: the slot that is not active is erased.
    ///
    /// # Errors
    /// [`SlotError::TooLarge`], [`SlotError::Rollback`] before anything is erased; [`SlotError::Flash`].
    pub fn update(&mut self, incoming: Incoming) -> Result<Update<'_, F>, SlotError<F::Error>> {
        let (bytes, room) = (incoming.bytes, self.room());
        if bytes > room {
            return Err(SlotError::TooLarge { bytes, room });
        }
        let active = self.active()?;
        let minimum = active.as_ref().map_or(0, |active| active.version).max(self.minimum);
        if incoming.version < minimum {
            return Err(SlotError::Rollback { version: incoming.version, minimum });
        }
        let slot = active.as_ref().map_or(0, |active| 1 - active.slot);
        let sequence = active.map_or(0, |active| active.sequence.wrapping_add(1));
        let start = self.start_of(slot);
        // The header first, and alone: from here on the slot is no model.
        self.flash.erase(start, start + Self::BLOCK).map_err(SlotError::Flash)?;
        self.flash.erase(start + Self::BLOCK, start + self.slot_bytes).map_err(SlotError::Flash)?;
        Ok(Update { slots: self, incoming, slot, sequence, buffer: [0; CHUNK], taken: 0, digest: CRC.digest() })
    }

    fn start_of(&self, slot: u32) -> u32 {
        self.start + slot * self.slot_bytes
    }

    fn place(&self, slot: u32, bytes: u32) -> Range<u32> {
        let start = self.start_of(slot) + Self::BLOCK;
        start..start + bytes
    }

    fn header(&mut self, slot: u32) -> Result<Option<Header>, SlotError<F::Error>> {
        let mut bytes = [0; HEADER_BYTES];
        self.flash.read(self.start_of(slot), &mut bytes).map_err(SlotError::Flash)?;
        Ok(Header::decode(&bytes).filter(|header| header.bytes <= self.room()))
    }

    /// What is in a slot, where it counts.
    fn stored(&mut self, slot: u32) -> Result<Option<Stored>, SlotError<F::Error>> {
        let Some(header) = self.header(slot)? else { return Ok(None) };
        if header.version < self.minimum || self.fault(slot, &header)?.is_some() {
            return Ok(None);
        }
        let Header { sequence, version, bytes, .. } = header;
        Ok(Some(Stored { place: self.place(slot, bytes), version, slot, sequence }))
    }

    /// What of the model in a slot is not as its header says.
    fn fault(&mut self, slot: u32, header: &Header) -> Result<Option<SlotError<F::Error>>, SlotError<F::Error>> {
        let mut digest = CRC.digest();
        self.read_model(slot, header.bytes, |chunk| digest.update(chunk))?;
        if digest.finalize() != header.checksum {
            return Ok(Some(SlotError::Written));
        }
        Ok(if self.is_signed(slot, header)? { None } else { Some(SlotError::Signature) })
    }

    #[cfg(feature = "signature")]
    fn is_signed(&mut self, slot: u32, header: &Header) -> Result<bool, SlotError<F::Error>> {
        let Some(key) = self.key else { return Ok(true) };
        let signature = ed25519_compact::Signature::new(header.signature);
        let Ok(mut state) = key.verify_incremental(&signature) else { return Ok(false) };
        self.read_model(slot, header.bytes, |chunk| state.absorb(chunk))?;
        state.absorb(header.version.to_le_bytes());
        Ok(state.verify().is_ok())
    }

    #[cfg(not(feature = "signature"))]
    fn is_signed(&mut self, _: u32, _: &Header) -> Result<bool, SlotError<F::Error>> {
        Ok(true)
    }

    fn read_model(&mut self, slot: u32, bytes: u32, mut each: impl FnMut(&[u8])) -> Result<(), SlotError<F::Error>> {
        let (mut buffer, mut at) = ([0; CHUNK], self.place(slot, bytes));
        while !at.is_empty() {
            // A whole chunk: what lies behind the model is in the slot, since a slot has whole blocks.
            self.flash.read(at.start, &mut buffer).map_err(SlotError::Flash)?;
            each(buffer.get(..at.len()).unwrap_or(&buffer));
            at.start += CHUNK as u32;
        }
        Ok(())
    }
}

/// An update under way; dropping it leaves the slot without a model.
pub struct Update<'s, F> {
    slots: &'s mut Slots<F>,
    incoming: Incoming,
    slot: u32,
    sequence: u32,
    /// Bytes that came since the last whole chunk.
    buffer: [u8; CHUNK],
    /// Bytes that came.
    taken: u32,
    digest: crc::Digest<'static, u32, crc::Table<1>>,
}

impl<F: NorFlash> Update<'_, F> {
    /// Takes the next bytes of the model.
    ///
    /// # Errors
    /// [`SlotError::Length`] when more come than were announced, [`SlotError::Flash`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SlotError<F::Error>> {
        let end = u32::try_from(bytes.len()).ok().and_then(|len| self.taken.checked_add(len));
        if end.is_none_or(|end| end > self.incoming.bytes) {
            return Err(SlotError::Length);
        }
        self.digest.update(bytes);
        for &byte in bytes {
            let at = self.taken as usize % CHUNK;
            if let Some(to) = self.buffer.get_mut(at) {
                *to = byte;
            }
            self.taken += 1;
            if at == CHUNK - 1 {
                self.flush(CHUNK)?;
            }
        }
        Ok(())
    }

    /// Writes the first `used` bytes of the buffer, the rest as erased.
    fn flush(&mut self, used: usize) -> Result<(), SlotError<F::Error>> {
        for byte in self.buffer.iter_mut().skip(used) {
            *byte = 0xff;
        }
        let whole = used.next_multiple_of(F::WRITE_SIZE.max(1)).min(CHUNK);
        let at = self.slots.place(self.slot, self.taken - used as u32).end;
        self.slots.flash.write(at, self.buffer.get(..whole).unwrap_or(&[])).map_err(SlotError::Flash)
    }

    /// Reads the model back, has `proof` open it at its place in the flash, and makes it the active one.
    ///
    /// # Errors
    /// [`SlotError::Length`], [`SlotError::Written`], [`SlotError::Signature`], [`SlotError::Proof`], [`SlotError::Flash`]: the
    /// model in use stays the active one.
    pub fn finish(mut self, proof: impl FnOnce(Range<u32>) -> bool) -> Result<Stored, SlotError<F::Error>> {
        if self.taken != self.incoming.bytes {
            return Err(SlotError::Length);
        }
        let left = self.taken as usize % CHUNK;
        if left > 0 {
            self.flush(left)?;
        }
        let Self { slots, incoming, slot, sequence, digest, .. } = self;
        let Incoming { bytes, version, signature } = incoming;
        let header = Header { sequence, version, bytes, checksum: digest.finalize(), signature };
        if let Some(fault) = slots.fault(slot, &header)? {
            return Err(fault);
        }
        let place = slots.place(slot, bytes);
        if !proof(place.clone()) {
            return Err(SlotError::Proof);
        }
        slots.flash.write(slots.start_of(slot), &header.encode()).map_err(SlotError::Flash)?;
        Ok(Stored { place, version, slot, sequence })
    }
}
