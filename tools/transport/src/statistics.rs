//! What is expected of the next byte, from those before it: decoder and encoder learn the same.

use crate::coder::Bits;

/// Bytes that have one [`Mode`]; the last block of a model may be shorter.
pub const BLOCK: usize = 128;
/// Bits of a mode.
const MODE_BITS: u32 = 3;
/// Statistics of [`Mode::Bytes`].
const SPREADS: usize = 4;
/// Bytes of weights of one channel that lie side by side, and channels of a panel.
const GROUP: usize = 16;
const CHANNELS: usize = 4;
/// Statistics of [`Mode::Text`].
const BEFORE: usize = 4;
/// Bytes that are remembered, and ends of byte strings whose places are.
const HISTORY: usize = 2048;
const ENDS: usize = 512;
/// Bytes of such an end.
const END: usize = 4;
/// Lengths of repetitions that are told apart.
const LENGTHS: usize = 16;
/// Statistics of [`Mode::Base`].
const CHANGES: usize = 3;
/// Bytes of a word.
const WORD: usize = 4;

/// By what the bytes of a block are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Weights: the bytes that have come, by how far from 0 the last ones of the channel were.
    Bytes,
    /// Weights of 4 bits: the halves of a byte that have come, each by itself, by how far from 0 the last ones of the channel were.
    Nibbles,
    /// Those in the same place of words of four bytes.
    Words,
    /// What followed the last four bytes where they stood before, as long as it comes again; else bytes behind those with the
    /// same upper two bits.
    Text,
    /// The byte of the old model as far behind the place as in the block of this mode before; what is coded is the difference,
    /// by how many of the last two were not 0.
    Base,
    /// The same at another distance, which comes first.
    BaseElsewhere,
}

impl Mode {
    pub(crate) const ALL: [Self; 6] =
        [Self::Bytes, Self::Nibbles, Self::Words, Self::Text, Self::Base, Self::BaseElsewhere];

    fn of_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }
}

/// Probabilities of the bits of a byte, from the highest on, by the bits before: those of a zero in units of 2^-16.
#[derive(Clone, Copy)]
struct Tree<const LEAVES: usize> {
    zero: [u16; LEAVES],
    /// Symbols seen, up to a number from which on nothing changes.
    seen: u16,
}

impl<const LEAVES: usize> Tree<LEAVES> {
    const NEW: Self = Self { zero: [1 << 15; LEAVES], seen: 0 };

    /// How much of the distance a bit moves its probability: less, the more was seen.
    fn rate(&mut self) -> u32 {
        self.seen = self.seen.saturating_add(1);
        4 + u32::from(self.seen > 128) + u32::from(self.seen > 512) + u32::from(self.seen > 4096)
    }

    fn code(&mut self, bits: &mut impl Bits, symbol: u32) -> u32 {
        let rate = self.rate();
        let mut node = 1;
        for place in (0..LEAVES.ilog2()).rev() {
            let Some(zero) = self.zero.get_mut(node as usize) else { break };
            let bit = bits.code(*zero, symbol >> place & 1);
            // Stays 16 and more away from both ends.
            if bit == 0 {
                *zero += (u16::MAX - *zero) >> rate;
            } else {
                *zero -= *zero >> rate;
            }
            node = node << 1 | bit;
        }
        node - LEAVES as u32
    }
}

/// Everything that was learned.
#[derive(Clone)]
pub(crate) struct Statistics {
    modes: [Tree<{ 1 << MODE_BITS }>; 1 << MODE_BITS],
    bytes: [Tree<256>; SPREADS],
    /// Mean magnitude of the last bytes of a channel, times 16.
    spread: [u16; CHANNELS],
    nibbles: [[Tree<16>; 2]; SPREADS],
    nibble_spread: [u16; CHANNELS],
    words: [Tree<256>; WORD],
    text: [Tree<256>; BEFORE],
    changes: [Tree<256>; CHANGES],
    mode: Mode,
    /// Place in the old model less that in the new one.
    distance: i32,
    last: u8,
    changed: [bool; CHANGES - 1],
    history: [u8; HISTORY],
    /// Places in the history behind ends, by a hash of them; 0 where there was none.
    ends: [u16; ENDS],
    last_bytes: u32,
    follow: u16,
    length: u8,
    repeated: [Tree<2>; LENGTHS],
}

impl Statistics {
    pub const fn new() -> Self {
        Self {
            modes: [Tree::NEW; 1 << MODE_BITS],
            bytes: [Tree::NEW; SPREADS],
            spread: [0; CHANNELS],
            nibbles: [[Tree::NEW; 2]; SPREADS],
            nibble_spread: [0; CHANNELS],
            words: [Tree::NEW; WORD],
            text: [Tree::NEW; BEFORE],
            changes: [Tree::NEW; CHANGES],
            mode: Mode::Bytes,
            distance: 0,
            last: 0,
            changed: [false; CHANGES - 1],
            history: [0; HISTORY],
            ends: [0; ENDS],
            last_bytes: 0,
            follow: 0,
            length: 0,
            repeated: [Tree::NEW; LENGTHS],
        }
    }

    #[cfg(feature = "std")]
    pub fn distance(&self) -> i32 {
        self.distance
    }

    /// Codes how the next block is coded; `None` where a decoder reads no mode.
    pub fn block(&mut self, bits: &mut impl Bits, mode: Mode, distance: i32) -> Option<()> {
        let code = self.modes.get_mut(self.mode as usize)?.code(bits, mode as u32);
        self.mode = Mode::of_code(code)?;
        if self.mode == Mode::BaseElsewhere {
            let given = distance as u32;
            let read = (0..u32::BITS).rev().fold(0, |read, place| read << 1 | bits.code(1 << 15, given >> place & 1));
            self.distance = read as i32;
        }
        Some(())
    }

    /// The byte of the old model that is expected at `place`, in the modes that look there; `None` where it has none.
    pub fn expected(&self, base: &[u8], place: u32) -> Option<u8> {
        match self.mode {
            Mode::Bytes | Mode::Nibbles | Mode::Words | Mode::Text => Some(0),
            Mode::Base | Mode::BaseElsewhere => base.get(place.checked_add_signed(self.distance)? as usize).copied(),
        }
    }

    /// Codes the byte at `place`.
    pub fn byte(&mut self, bits: &mut impl Bits, base: &[u8], place: u32, byte: u8) -> Option<u8> {
        let byte = self.coded(bits, base, place, byte)?;
        self.remember(place, byte);
        Some(byte)
    }

    fn coded(&mut self, bits: &mut impl Bits, base: &[u8], place: u32, byte: u8) -> Option<u8> {
        let expected = self.expected(base, place)?;
        let channel = place as usize / GROUP % CHANNELS;
        let changed = self.changed.iter().filter(|changed| **changed).count();
        if self.mode == Mode::Text && self.length > 0 {
            let again = self.history.get(usize::from(self.follow) % HISTORY).copied()?;
            let flag = self.repeated.get_mut(usize::from(self.length).min(LENGTHS - 1))?;
            if flag.code(bits, u32::from(byte != again)) == 0 {
                return Some(again);
            }
            self.length = 0;
        }
        if self.mode == Mode::Nibbles {
            let class = nibble_class(self.nibble_spread.get(place as usize / (GROUP / 2) % CHANNELS).copied()?);
            let [low, high] = self.nibbles.get_mut(class)?;
            let low = low.code(bits, u32::from(byte & 15));
            return Some((low | high.code(bits, u32::from(byte >> 4)) << 4) as u8);
        }
        let tree = match self.mode {
            // Above.
            Mode::Nibbles => return None,
            Mode::Bytes => self.bytes.get_mut(spread_class(self.spread.get(channel).copied()?))?,
            Mode::Words => self.words.get_mut(place as usize % WORD)?,
            Mode::Text => self.text.get_mut(usize::from(self.last) * BEFORE / 256)?,
            Mode::Base | Mode::BaseElsewhere => self.changes.get_mut(changed)?,
        };
        let change = tree.code(bits, u32::from(byte.wrapping_sub(expected))) as u8;
        self.changed = [self.changed[1], change != 0];
        Some(expected.wrapping_add(change))
    }

    fn remember(&mut self, place: u32, byte: u8) {
        self.last = byte;
        if let Some(spread) = self.spread.get_mut(place as usize / GROUP % CHANNELS) {
            *spread = *spread - *spread / 16 + u16::from((byte as i8).unsigned_abs());
        }
        if let Some(spread) = self.nibble_spread.get_mut(place as usize / (GROUP / 2) % CHANNELS) {
            let (low, high) = ((byte << 4) as i8 >> 4, byte as i8 >> 4);
            *spread = *spread - *spread / 16 + u16::from(low.unsigned_abs() + high.unsigned_abs());
        }
        if let Some(to) = self.history.get_mut(place as usize % HISTORY) {
            *to = byte;
        }
        self.last_bytes = self.last_bytes << 8 | u32::from(byte);
        let behind = (place as usize + 1) % HISTORY;
        let end = (self.last_bytes.wrapping_mul(0x9e37_79b1) >> 23) as usize % ENDS;
        let known = self.ends.get(end).copied().unwrap_or(0);
        if self.length > 0 {
            let goes_on = self.history.get(usize::from(self.follow) % HISTORY) == Some(&byte);
            self.length = if goes_on { self.length.saturating_add(1) } else { 0 };
            self.follow = (self.follow + 1) % HISTORY as u16;
        }
        if self.length == 0 && place as usize >= END {
            (self.follow, self.length) = (known, 1);
        }
        if let Some(to) = self.ends.get_mut(end) {
            *to = behind as u16;
        }
    }
}

/// Classes of mean magnitudes: those below 6, 20 and 40, and the rest.
fn spread_class(spread: u16) -> usize {
    [96, 320, 640].iter().filter(|&&limit| spread >= limit).count()
}

/// Classes of mean magnitudes of two weights of 4 bits.
fn nibble_class(spread: u16) -> usize {
    [24, 48, 72].iter().filter(|&&limit| spread >= limit).count()
}
