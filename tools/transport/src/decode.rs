//! The decoder, a piece at a time.

use crate::coder::{Reader, START_BYTES};
use crate::statistics::{BLOCK, Mode, Statistics};
use crate::{HEADER_BYTES, Header, TransportError};
use shiftformer::format::CRC;

/// Bytes of code that a byte of a model takes at most, with the mode of its block and a distance before it: two for each of
/// 11 bits that are learned, one for each of eight others, and those of the start.
const MOST_CODE: usize = 2 * 11 + 32 / 8 + START_BYTES;

const _: () = assert!(MOST_CODE < Reader::ROOM);

/// How far a [`Decoder`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes taken from the input.
    pub read: usize,
    /// Bytes of the model put into the output.
    pub written: usize,
}

/// Decodes the transport form.
pub struct Decoder<'b> {
    base: &'b [u8],
    head: [u8; HEADER_BYTES],
    head_bytes: usize,
    header: Option<Header>,
    reader: Reader,
    statistics: Statistics,
    code_left: u32,
    place: u32,
    crc: crc::Digest<'static, u32, crc::Table<1>>,
    fault: Option<TransportError>,
}

/// Kept by digests.
static CHECKSUM: crc::Crc<u32, crc::Table<1>> = CRC;

impl<'b> Decoder<'b> {
    /// For the model that `base` is the old one of; any bytes where it stands alone.
    pub fn new(base: &'b [u8]) -> Self {
        Self {
            base,
            head: [0; HEADER_BYTES],
            head_bytes: 0,
            header: None,
            reader: Reader::new(),
            statistics: Statistics::new(),
            code_left: 0,
            place: 0,
            crc: CHECKSUM.digest(),
            fault: None,
        }
    }

    /// What the header says, once it has come.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Takes bytes of the transport form and gives bytes of the model, as far as there is input and room. Call it again with the
    /// rest of the input while it fills `out`.
    ///
    /// # Errors
    /// [`TransportError`], from then on.
    pub fn push(&mut self, input: &[u8], out: &mut [u8]) -> Result<Moved, TransportError> {
        let moved = match self.fault {
            Some(fault) => Err(fault),
            None => self.push_more(input, out),
        };
        self.fault = moved.err();
        moved
    }

    fn push_more(&mut self, input: &[u8], out: &mut [u8]) -> Result<Moved, TransportError> {
        let mut rest = input.iter();
        let Some(header) = self.header_of(&mut rest)? else { return Ok(Moved { read: input.len(), written: 0 }) };
        let mut written = 0;
        for to in out.iter_mut() {
            while self.code_left > 0 && self.reader.held() < Reader::ROOM {
                let Some(&byte) = rest.next() else { break };
                self.reader.put(byte);
                self.code_left -= 1;
            }
            let enough = self.code_left == 0 || self.reader.held() >= MOST_CODE;
            if self.place == header.model_bytes || !enough {
                break;
            }
            *to = self.byte().ok_or(TransportError::Damaged)?;
            self.place += 1;
            written += 1;
        }
        self.crc.update(out.get(..written).unwrap_or(&[]));
        if self.place == header.model_bytes {
            if self.crc.clone().finalize() != header.model_crc {
                return Err(TransportError::Damaged);
            }
            // The last byte leaves less than it might have taken.
            let unused = self.reader.held() + self.code_left as usize > MOST_CODE;
            if unused || (self.code_left == 0 && rest.next().is_some()) {
                return Err(TransportError::Long);
            }
        }
        Ok(Moved { read: input.len() - rest.len(), written })
    }

    /// The header, from the bytes before the code.
    fn header_of(&mut self, rest: &mut core::slice::Iter<'_, u8>) -> Result<Option<Header>, TransportError> {
        if self.header.is_some() {
            return Ok(self.header);
        }
        while let Some(to) = self.head.get_mut(self.head_bytes) {
            let Some(&byte) = rest.next() else { return Ok(None) };
            *to = byte;
            self.head_bytes += 1;
        }
        let header = Header::decode(&self.head)?;
        let (bytes, crc) = (header.base_bytes, header.base_crc);
        let other = TransportError::OtherBase { bytes, crc };
        self.base = self.base.get(..bytes as usize).ok_or(other)?;
        if bytes > 0 && CRC.checksum(self.base) != crc {
            return Err(other);
        }
        self.code_left = header.code_bytes;
        self.header = Some(header);
        Ok(self.header)
    }

    fn byte(&mut self) -> Option<u8> {
        if self.place == 0 {
            self.reader.start();
        }
        if (self.place as usize).is_multiple_of(BLOCK) {
            self.statistics.block(&mut self.reader, Mode::Bytes, 0)?;
        }
        self.statistics.byte(&mut self.reader, self.base, self.place, 0)
    }

    /// Whether the model is whole and has its checksum.
    ///
    /// # Errors
    /// [`TransportError::Short`] where bytes are missing, or what [`push`](Self::push) has found.
    pub fn finish(mut self) -> Result<(), TransportError> {
        // An empty model has no byte to be found damaged with.
        let fault = self.fault.take();
        let whole = self.header.is_some_and(|header| header.model_bytes == self.place) && self.code_left == 0;
        fault.map_or(if whole { Ok(()) } else { Err(TransportError::Short) }, Err)
    }
}
