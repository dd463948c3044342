//! Compares the fast kernels of a core with the portable ones, on the core: the case table of `shiftformer::testing`.
#![no_std]

use semihosting::io::{Write, stdout};
use shiftformer::kernels::{Kernels, Native};
use shiftformer::testing::{Difference, check, check_large};
use support::memory::take_job_memory;
use support::{Emulated, exit};

fn run(memory: &mut [u8]) -> Result<usize, Difference> {
    let cases = check::<Native>(memory)?;
    check_large::<Native>(memory)?;
    Ok(cases)
}

/// Runs all cases; ends the emulation.
pub fn main<B: Emulated>() -> ! {
    let (Some(memory), Ok(mut out)) = (take_job_memory::<B>(), stdout()) else { exit(false) };
    let done = run(memory);
    // Nobody listens when this fails; the exit status still says it.
    let _ = match &done {
        Ok(cases) => writeln!(out, "{}: {} cases as portable", Native::NAME, cases),
        Err(difference) => writeln!(out, "{}: {:?}", Native::NAME, difference),
    };
    exit(done.is_ok())
}

/// Says where a test panicked; ends the emulation.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut out) = stdout() {
        // As above.
        let _ = writeln!(out, "{info}");
    }
    exit(false)
}
