//! Lines of text over a serial port.

use crate::Board;
use core::convert::Infallible;
use embedded_io::{Read, Write};
use heapless::String;

/// What ends a conversation: Ctrl-D.
const END: u8 = 4;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 127;

/// A board with a serial port.
pub trait Talks: Board {
    /// The port. What the line damages is not its business: bytes that come are passed on.
    type Port: Read<Error = Infallible> + Write<Error = Infallible>;

    /// The port, ready to send and receive; called once.
    fn port() -> Self::Port;
}

/// Why a demo stops.
pub enum Fault {
    /// The model does not open or lacks what the demo needs.
    Model,
    /// Arena and state are larger than the memory.
    Memory,
    /// A run failed.
    Run,
}

impl Fault {
    /// A line that says so.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Model => "the model cannot be opened\n",
            Self::Memory => "arena and state do not fit the memory\n",
            Self::Run => "the model fails\n",
        }
    }
}

/// Lets `talk` run over the board's port until the conversation ends; ends the emulation.
pub fn converse<B: Talks>(talk: impl FnOnce(&mut Terminal<B::Port>) -> Result<(), Fault>) -> ! {
    B::start();
    let mut terminal = Terminal::new(B::port());
    match talk(&mut terminal) {
        Ok(()) => B::exit(true),
        Err(fault) => {
            terminal.print(fault.text());
            B::exit(false)
        }
    }
}

/// A terminal at a port.
pub struct Terminal<P>(P);

impl<P: Read<Error = Infallible> + Write<Error = Infallible>> Terminal<P> {
    /// The terminal at `port`.
    pub fn new(port: P) -> Self {
        Self(port)
    }

    fn send(&mut self, byte: u8) {
        let Ok(()) = self.0.write_all(&[byte]);
    }

    /// The next byte; that which ends the conversation at the end of the line.
    fn receive(&mut self) -> u8 {
        let mut byte = [END];
        let Ok(_) = self.0.read(&mut byte);
        let [byte] = byte;
        byte
    }

    /// Shows `text`; a new line starts at the left.
    pub fn print(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
    }

    /// Shows what is typed until the line ends, and returns it; `None` at the end of the conversation. What the line has no
    /// room for is left out, and not shown.
    pub fn line<const N: usize>(&mut self) -> Option<String<N>> {
        let mut line: String<N> = String::new();
        loop {
            match self.receive() {
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
                        self.send(byte);
                    }
                }
                _ => {}
            }
        }
    }
}
