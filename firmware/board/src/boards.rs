//! The addresses of each board.

pub use chosen::*;

#[cfg(any(feature = "mps2-an386", feature = "mps2-an500", feature = "m0-large"))]
#[allow(missing_docs)]
mod chosen {
    pub const NAME: &str = if cfg!(feature = "mps2-an386") {
        "mps2-an386"
    } else if cfg!(feature = "mps2-an500") {
        "mps2-an500"
    } else {
        "m0-large"
    };
    /// Start of the 16 MB PSRAM.
    pub const JOB_ADDRESS: usize = 0x2100_0000;
    pub const JOB_BYTES: usize = 16 << 20;
    /// Registers of the CMSDK FPGA images: LEDs, counters.
    pub(crate) const FPGAIO: usize = 0x4002_8000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps2-an505")]
#[allow(missing_docs)]
mod chosen {
    pub const NAME: &str = "mps2-an505";
    /// Start of the 16 MB PSRAM.
    pub const JOB_ADDRESS: usize = 0x8000_0000;
    pub const JOB_BYTES: usize = 16 << 20;
    /// FPGAIO, secure alias.
    pub(crate) const FPGAIO: usize = 0x5030_2000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps3-an547")]
#[allow(missing_docs)]
mod chosen {
    pub const NAME: &str = "mps3-an547";
    /// Start of the DDR4 memory.
    pub const JOB_ADDRESS: usize = 0x6000_0000;
    pub const JOB_BYTES: usize = 16 << 20;
    /// FPGAIO, secure alias.
    pub(crate) const FPGAIO: usize = 0x5930_2000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "microbit")]
#[allow(missing_docs)]
mod chosen {
    pub const NAME: &str = "microbit";
    /// Upper part of the flash; the linker keeps programs below (`memory/microbit.x`).
    pub const JOB_ADDRESS: usize = 0x0001_8000;
    pub const JOB_BYTES: usize = 0x0004_0000 - JOB_ADDRESS;
    pub const STACK_BYTES: usize = 3 * 1024;
}
