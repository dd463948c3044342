//! Compares the fast kernels of a core with the portable ones, on the core: the case table of `shiftformer::testing`.
#![no_std]
#![no_main]

use board::memory::take_job_memory;
use board::semihosting::exit;
use core::fmt::Write;
use cortex_m_semihosting::hio;
use shiftformer::kernels::{Kernels, Native};
use shiftformer::testing::{Difference, check, check_large};

fn run(memory: &mut [u8]) -> Result<usize, Difference> {
    let cases = check::<Native>(memory)?;
    check_large::<Native>(memory)?;
    Ok(cases)
}

#[board::entry]
fn main() -> ! {
    let (Some(memory), Ok(mut out)) = (take_job_memory(), hio::hstdout()) else { exit(false) };
    let done = run(memory);
    // Nobody listens when this fails; the exit status still says it.
    let _ = match &done {
        Ok(cases) => writeln!(out, "{}: {} cases as portable", Native::NAME, cases),
        Err(difference) => writeln!(out, "{}: {:?}", Native::NAME, difference),
    };
    exit(done.is_ok())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut out) = hio::hstdout() {
        let _ = writeln!(out, "{info}");
    }
    exit(false)
}
