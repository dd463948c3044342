//! Serves a serial line: a host uploads a model, runs it on its inputs, and gets outputs, times and digests of every operator.
//!
//! `shiftformer device` and the backend `serial:PORT` are the host's side.
#![no_std]

use shiftformer::kernels::Native;
use shiftformer_wire::{Device, serve};
use support::memory::take_arena;
use support::terminal::Talks;

/// Serves the board's port for ever.
pub fn main<B: Talks>() -> ! {
    B::start();
    let Some(memory) = take_arena::<B>() else { B::exit(false) };
    let device = Device { board: B::NAME, counter_hz: B::COUNTER_HZ, ticks: B::ticks };
    let Ok(()) = serve::<Native, _>(&device, memory, &[], B::port());
    B::exit(true)
}

/// A panic ends the emulation.
pub fn panic<B: Talks>() -> ! {
    B::exit(false)
}
