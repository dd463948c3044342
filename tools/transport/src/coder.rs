//! A binary range coder: an interval of 32 bits, divided by the probability of a zero in units of 2^-12.

/// Bits of a probability that divide the interval.
const PRECISION: u32 = 12;
/// Below this the interval takes in another byte.
const LOW: u32 = 1 << 24;

/// Codes bits: the decoder returns the one it reads, an encoder the one it is given.
pub(crate) trait Bits {
    /// `zero` is the probability of a zero in units of 2^-16, of which the upper 12 bits count and are not 0.
    fn code(&mut self, zero: u16, bit: u32) -> u32;
}

/// `range` divided: the part of a zero.
fn bound(range: u32, zero: u16) -> u32 {
    (range >> PRECISION) * (u32::from(zero) >> (16 - PRECISION))
}

/// Bytes that are read at the start.
pub(crate) const START_BYTES: usize = 4;

/// The bytes that have come and were not used yet, and the interval. Where there are no more it reads zeros.
pub(crate) struct Reader {
    range: u32,
    code: u32,
    ring: [u8; Self::ROOM],
    first: usize,
    held: usize,
}

impl Reader {
    /// Bytes that are held at most: more than a byte of a model takes, its mode included.
    pub const ROOM: usize = 64;

    pub const fn new() -> Self {
        Self { range: u32::MAX, code: 0, ring: [0; Self::ROOM], first: 0, held: 0 }
    }

    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes a byte in, where there is room.
    pub fn put(&mut self, byte: u8) {
        if let Some(to) = self.ring.get_mut((self.first + self.held) % Self::ROOM).filter(|_| self.held < Self::ROOM) {
            *to = byte;
            self.held += 1;
        }
    }

    pub fn start(&mut self) {
        for _ in 0..START_BYTES {
            self.code = self.code << 8 | self.next();
        }
    }

    fn next(&mut self) -> u32 {
        if self.held == 0 {
            return 0;
        }
        let byte = self.ring.get(self.first).copied().unwrap_or(0);
        self.first = (self.first + 1) % Self::ROOM;
        self.held -= 1;
        u32::from(byte)
    }
}

impl Bits for Reader {
    fn code(&mut self, zero: u16, _bit: u32) -> u32 {
        let bound = bound(self.range, zero);
        let bit = u32::from(self.code >= bound);
        if bit == 0 {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        while self.range < LOW {
            self.range <<= 8;
            self.code = self.code << 8 | self.next();
        }
        bit
    }
}

/// The encoder.
#[cfg(feature = "std")]
pub(crate) struct Writer {
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and those of 255 behind it.
    waiting: u8,
    full: usize,
    /// The first byte is always 0 and left out.
    started: bool,
    bytes: std::vec::Vec<u8>,
}

#[cfg(feature = "std")]
impl Writer {
    pub fn new() -> Self {
        Self { low: 0, range: u32::MAX, waiting: 0, full: 0, started: false, bytes: std::vec::Vec::new() }
    }

    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            if self.started {
                self.bytes.push(self.waiting.wrapping_add(carry));
            }
            self.started = true;
            self.bytes.extend(std::iter::repeat_n(0xffu8.wrapping_add(carry), core::mem::take(&mut self.full)));
            self.waiting = (self.low >> 24) as u8;
        } else {
            self.full += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    pub fn finish(mut self) -> std::vec::Vec<u8> {
        for _ in 0..=START_BYTES {
            self.shift();
        }
        // The decoder reads zeros where there are no more bytes.
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }
}

#[cfg(feature = "std")]
impl Bits for Writer {
    fn code(&mut self, zero: u16, bit: u32) -> u32 {
        let bound = bound(self.range, zero);
        if bit == 0 {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < LOW {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}
