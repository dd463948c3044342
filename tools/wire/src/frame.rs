//! Messages as frames: postcard, CRC-32, COBS, zero bytes around.

use crate::message::{CHUNK, Message};
use serde::{Deserialize, Serialize};
use shiftformer::format::CRC;

/// Bytes of a message at most: a chunk, numbers and names around it.
const MESSAGE_BYTES: usize = CHUNK + 96;
/// Bytes of the checksum.
const CRC_BYTES: usize = size_of::<u32>();
/// Bytes of a frame at most, with the zeros around it.
pub const FRAME_BYTES: usize = cobs::max_encoding_length(MESSAGE_BYTES + CRC_BYTES) + 2;

/// Memory to make a message in.
pub struct Scratch([u8; MESSAGE_BYTES + CRC_BYTES]);

impl Scratch {
    /// Of zeros.
    pub const fn new() -> Self {
        Self([0; MESSAGE_BYTES + CRC_BYTES])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Writes the frame of `message` to `frame`; its bytes, `None` for a message that is too long.
pub fn encode<T: Serialize>(
    message: &Message<T>,
    scratch: &mut Scratch,
    frame: &mut [u8; FRAME_BYTES],
) -> Option<usize> {
    let length = postcard::to_slice(message, scratch.0.get_mut(..MESSAGE_BYTES)?).ok()?.len();
    let crc = checksum(scratch.0.get(..length)?).to_le_bytes();
    scratch.0.get_mut(length..length + CRC_BYTES)?.copy_from_slice(&crc);
    let [first, rest @ ..] = frame;
    *first = 0;
    let coded = cobs::try_encode(scratch.0.get(..length + CRC_BYTES)?, rest).ok()?;
    *rest.get_mut(coded)? = 0;
    Some(coded + 2)
}

/// Collects the bytes of a line into frames.
pub struct Collector {
    bytes: [u8; FRAME_BYTES],
    length: usize,
    /// Bytes of the message that was decoded last.
    decoded: usize,
    /// A frame was looked at: the next byte starts another.
    done: bool,
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector {
    /// With nothing collected.
    pub const fn new() -> Self {
        Self { bytes: [0; FRAME_BYTES], length: 0, decoded: 0, done: false }
    }

    /// Takes the next byte; whether a frame may be complete, for [`message`](Self::message).
    pub fn push(&mut self, byte: u8) -> bool {
        if core::mem::take(&mut self.done) {
            self.length = 0;
        }
        if byte == 0 {
            self.done = self.length > 0;
            return self.done;
        }
        // More than a frame can have is none: what its end would be is no longer written, and the checksum finds it out.
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        false
    }

    /// The message between the last two zeros; `None` where there is none, or a damaged one. The bytes are used up.
    pub fn message<'a, T: Deserialize<'a>>(&'a mut self) -> Option<Message<T>> {
        let coded = cobs::decode_in_place(self.bytes.get_mut(..self.length)?).ok()?;
        let (message, crc) = self.bytes.get(..coded)?.split_last_chunk::<CRC_BYTES>()?;
        (u32::from_le_bytes(*crc) == checksum(message)).then_some(())?;
        self.decoded = message.len();
        postcard::from_bytes(message).ok()
    }

    /// The message that [`message`](Self::message) has found, once more.
    pub(crate) fn decoded<'a, T: Deserialize<'a>>(&'a self) -> Option<Message<T>> {
        postcard::from_bytes(self.bytes.get(..self.decoded)?).ok()
    }

    /// The bytes since the last zero, as they came: text between frames.
    pub fn raw(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Info, PROTOCOL, Request, Response};

    fn sent(message: &Message<Request<'_>>) -> ([u8; FRAME_BYTES], usize) {
        let mut frame = [0; FRAME_BYTES];
        let length = encode(message, &mut Scratch::new(), &mut frame).expect("the message fits");
        (frame, length)
    }

    #[test]
    fn messages_come_back_from_their_frames() {
        let bytes = [0; CHUNK];
        let body = Request::Input { index: 1, offset: u32::MAX, bytes: &bytes };
        let message = Message { session: u32::MAX, number: u32::MAX, body };
        let (frame, length) = sent(&message);
        let mut collector = Collector::new();
        let mut seen = 0;
        for byte in frame[..length].iter().chain(b"text between them").chain(&frame[..length]) {
            if collector.push(*byte) && collector.message() == Some(message) {
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_damaged_frame_is_none() {
        let message = Message { session: 3, number: 1, body: Request::Output { index: 0, offset: 9 } };
        let (frame, length) = sent(&message);
        for at in 0..length {
            for bit in 0..8 {
                let mut frame = frame;
                frame[at] ^= 1 << bit;
                let mut collector = Collector::new();
                for &byte in &frame[..length] {
                    if collector.push(byte) {
                        assert_eq!(collector.message::<Request<'_>>().filter(|m| *m != message), None, "{at} {bit}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let info = Info {
            protocol: PROTOCOL,
            board: "a board whose name takes forty characters",
            kernels: "Cortex-M55 with Helium, and more",
            counter_hz: u32::MAX,
            memory_bytes: u32::MAX,
            model: None,
            fault: "",
        };
        let message = Message { session: u32::MAX, number: u32::MAX, body: Response::Info(info) };
        assert!(encode(&message, &mut Scratch::new(), &mut [0; FRAME_BYTES]).is_some());
    }
}
