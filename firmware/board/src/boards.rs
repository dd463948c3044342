//! The addresses of each board that only its own code needs; the rest is in [`shiftformer_link::machine`].

use shiftformer_link::{Machine, machine};

#[cfg(feature = "m0-large")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::M0_LARGE;
    pub const FPGAIO: usize = 0x4002_8000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps2-an386")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::MPS2_AN386;
    pub const FPGAIO: usize = 0x4002_8000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps2-an500")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::MPS2_AN500;
    pub const FPGAIO: usize = 0x4002_8000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps2-an505")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::MPS2_AN505;
    /// Secure alias.
    pub const FPGAIO: usize = 0x5030_2000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "mps3-an547")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::MPS3_AN547;
    /// Secure alias.
    pub const FPGAIO: usize = 0x5930_2000;
    pub const STACK_BYTES: usize = 32 * 1024;
}

#[cfg(feature = "microbit")]
mod chosen {
    use super::*;
    pub const MACHINE: Machine = machine::MICROBIT;
    pub const STACK_BYTES: usize = 6 * 1024;
}

/// The chosen board.
pub const MACHINE: Machine = chosen::MACHINE;
/// Registers of the FPGA image: LEDs and counters.
#[cfg(not(feature = "microbit"))]
pub(crate) use chosen::FPGAIO;
/// Bytes at the end of RAM that [`crate::memory::take_arena`] leaves to the stack.
pub const STACK_BYTES: usize = chosen::STACK_BYTES;
