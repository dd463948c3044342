//! What the demos need to know of a board: where memory lies, what counts instructions, how to reach the host.
//!
//! Boards differ by a memory map (`memory/NAME.x`), a few addresses (`boards.rs`) and the target they are built for (the
//! list in `shiftformer_link::machine`). Adding one touches these three places and no demo.
#![no_std]

mod boards;
pub mod counter;
mod fault;
mod led;
pub mod memory;
pub mod semihosting;

pub use boards::{MACHINE, STACK_BYTES};
pub use cortex_m_rt::entry;
pub use led::Led;
