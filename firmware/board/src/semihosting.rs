//! Files of the host, through the debugger's (or the emulator's) semihosting.

use core::ffi::CStr;
use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::syscall;

/// The host refused, or moved fewer bytes than asked.
#[derive(Clone, Copy, Debug)]
pub struct IoError;

/// How a file is opened; the numbers are those of `SYS_OPEN`.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// Reading, binary.
    Read = 1,
    /// Writing, binary; the file is made or emptied.
    Write = 5,
}

/// An open file of the host.
pub struct File(usize);

impl File {
    /// Opens a file by its path on the host.
    ///
    /// # Errors
    /// [`IoError`] when the host cannot.
    pub fn open(path: &CStr, mode: Mode) -> Result<Self, IoError> {
        let length = path.count_bytes();
        // SAFETY: SYS_OPEN reads `length` bytes and the zero behind them.
        let handle = unsafe { syscall!(OPEN, path.as_ptr(), mode as usize, length) };
        if handle == usize::MAX { Err(IoError) } else { Ok(Self(handle)) }
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// [`IoError`] when the file has fewer bytes left.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(), IoError> {
        // SAFETY: SYS_READ writes at most `len` bytes to the buffer and returns how many are missing.
        let missing = unsafe { syscall!(READ, self.0, buffer.as_mut_ptr(), buffer.len()) };
        if missing == 0 { Ok(()) } else { Err(IoError) }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`IoError`] when not all are written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        // SAFETY: SYS_WRITE reads `len` bytes and returns how many it did not write.
        let missing = unsafe { syscall!(WRITE, self.0, bytes.as_ptr(), bytes.len()) };
        if missing == 0 { Ok(()) } else { Err(IoError) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: SYS_CLOSE takes the handle alone.
        unsafe { syscall!(CLOSE, self.0) };
    }
}

/// Ends the emulation, with exit status 0 for success and 1 otherwise.
pub fn exit(success: bool) -> ! {
    cortex_m_semihosting::debug::exit(if success { EXIT_SUCCESS } else { EXIT_FAILURE });
    // A debugger on silicon may let the core run on.
    loop {
        core::hint::spin_loop();
    }
}
