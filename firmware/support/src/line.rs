//! Serial ports as `embedded-io` has them.

use core::convert::Infallible;
use embedded_hal_nb::{nb, serial};
use embedded_io::{ErrorType, Read, ReadReady, Write};

/// A port that can be asked whether a byte has come.
pub trait Ready: Port {
    /// Whether [`receive`](Port::receive) would not wait.
    fn is_ready(&mut self) -> bool;
}

/// A serial port that is known byte by byte.
pub trait Port {
    /// Waits for a byte.
    fn receive(&mut self) -> u8;

    /// Sends a byte as soon as there is room for it.
    fn send(&mut self, byte: u8);
}

/// A serial port of a HAL, read and written without interrupts.
pub struct Blocking<U>(pub U);

impl<U: serial::Read + serial::Write> Port for Blocking<U> {
    /// Damaged bytes are left out.
    fn receive(&mut self) -> u8 {
        loop {
            if let Ok(byte) = nb::block!(self.0.read()) {
                return byte;
            }
        }
    }

    fn send(&mut self, byte: u8) {
        // What is written cannot be damaged here.
        let _ = nb::block!(self.0.write(byte));
    }
}

/// The bytes of a port.
pub struct Line<P>(pub P);

impl<P> ErrorType for Line<P> {
    type Error = Infallible;
}

impl<P: Port> Read for Line<P> {
    /// Waits for one byte.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        match buffer.first_mut() {
            Some(byte) => {
                *byte = self.0.receive();
                Ok(1)
            }
            None => Ok(0),
        }
    }
}

impl<P: Ready> ReadReady for Line<P> {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.0.is_ready())
    }
}

impl<P: Port> Write for Line<P> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        bytes.iter().for_each(|&byte| self.0.send(byte));
        Ok(bytes.len())
    }

    /// Bytes are sent as they are written.
    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
