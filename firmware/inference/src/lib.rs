//! Opens and runs the model the host put into memory, and does nothing else.
//!
//! The programs differ in the operators they link. None may contain a floating-point instruction, an allocator, or the
//! panic machinery of `core`: `cargo xtask audit` looks at all that is linked.
#![no_std]

use shiftformer::kernels::Native;
use shiftformer::ops::Entry;
use shiftformer::{Model, Session};
use shiftformer_link::Job;

/// Runs the model once over whatever the arena holds; ends the emulation with the outcome.
pub fn main(table: &'static [Entry<Native>]) -> ! {
    board::semihosting::exit(open(table).is_some_and(|mut session| inference(&mut session)))
}

/// The checks, once.
#[inline(never)]
fn open(table: &'static [Entry<Native>]) -> Option<Session<'static, 'static, Native>> {
    let bytes = board::memory::job();
    let job = Job::decode(bytes)?;
    let file = bytes.get(Job::BYTES..)?.get(..job.model_bytes as usize)?;
    let model = Model::open_with(file, table).ok()?;
    Session::new(&model, board::memory::take_arena()?).ok()
}

/// The inference: the audit and the size table start here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(session: &mut Session<'static, 'static, Native>) -> bool {
    planted();
    session.run().is_ok()
}

/// Nothing, unless a test of the audit asks for a fault.
#[inline(always)]
fn planted() {
    #[cfg(any(feature = "plant-float", feature = "plant-soft-float"))]
    core::hint::black_box(core::hint::black_box(1.5f32) * 0.7);
    #[cfg(feature = "plant-panic")]
    core::hint::black_box(b"abc"[core::hint::black_box(1)]);
}

/// Without a caller it is not linked: the audit sees whether anything panics.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    board::semihosting::exit(false)
}
