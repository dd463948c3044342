//! Lines of text over a serial port.

use crate::Board;
use heapless::String;

/// What ends a conversation: Ctrl-D.
const END: u8 = 4;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 127;

/// A board with a serial port that people type at.
pub trait Talks: Board {
    /// The port.
    type Port: Port;

    /// The port, ready to send and receive; called once.
    fn port() -> Self::Port;
}

/// A serial port.
pub trait Port {
    /// Waits for a byte.
    fn receive(&mut self) -> u8;

    /// Sends a byte as soon as there is room for it.
    fn send(&mut self, byte: u8);
}

/// A terminal at a port.
pub struct Terminal<P>(P);

impl<P: Port> Terminal<P> {
    /// The terminal at `port`.
    pub fn new(port: P) -> Self {
        Self(port)
    }

    /// Shows `text`; a new line starts at the left.
    pub fn print(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
        }
    }

    /// Shows what is typed until the line ends, and returns it; `None` at the end of the conversation. What the line has no
    /// room for is left out, and not shown.
    pub fn line<const N: usize>(&mut self) -> Option<String<N>> {
        let mut line: String<N> = String::new();
        loop {
            match self.0.receive() {
                END => return None,
                b'\r' | b'\n' => {
                    if !line.is_empty() {
                        return Some(line);
                    }
                }
                BACKSPACE | DELETE => {
                    if line.pop().is_some() {
                        self.print("\u{8} \u{8}");
                    }
                }
                // The demos' models know ASCII.
                byte if byte.is_ascii_graphic() || byte == b' ' => {
                    if line.push(char::from(byte)).is_ok() {
                        self.0.send(byte);
                    }
                }
                _ => {}
            }
        }
    }
}
