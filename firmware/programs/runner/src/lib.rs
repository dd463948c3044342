//! Executes a job that the host put into memory: any model, any samples, no rebuild. See `shiftformer_link`.
//!
//! Samples come from the file `samples.bin` and the answer goes to `answer.bin`, both in the emulator's directory.
#![no_std]

use core::marker::PhantomData;
use semihosting::fs::File;
use semihosting::io::{Read, Result, Write};
use shiftformer::kernels::{Native, Portable};
use shiftformer_link::{Host, HostError};
use support::memory::{StackMark, job, mark_stack, take_arena};
use support::{Board, Emulated, counter};

struct Machine<B> {
    samples: File,
    answer: File,
    mark: StackMark,
    board: PhantomData<B>,
}

impl<B: Board> Host for Machine<B> {
    fn read(&mut self, buffer: &mut [u8]) -> core::result::Result<(), HostError> {
        self.samples.read_exact(buffer).map_err(|_| HostError)
    }

    fn write(&mut self, bytes: &[u8]) -> core::result::Result<(), HostError> {
        self.answer.write_all(bytes).map_err(|_| HostError)
    }

    #[inline(always)]
    fn ticks(&mut self) -> u32 {
        B::ticks()
    }

    fn known_loop(&mut self) -> u32 {
        counter::known_loop()
    }

    fn mark_stack(&mut self) {
        self.mark = mark_stack::<B>();
    }

    fn stack_bytes(&mut self) -> u32 {
        self.mark.deepest_bytes() as u32
    }
}

fn connect<B: Board>() -> Result<Machine<B>> {
    B::start();
    let samples = File::open(c"samples.bin")?;
    let answer = File::create(c"answer.bin")?;
    Ok(Machine { samples, answer, mark: mark_stack::<B>(), board: PhantomData })
}

/// Executes the job; ends the emulation.
pub fn main<B: Emulated>() -> ! {
    let (Ok(mut host), Some(arena)) = (connect::<B>(), take_arena::<B>()) else { B::exit(false) };
    let done = shiftformer_link::execute::<Portable, Native>(job::<B>(), arena, &mut host, B::MACHINE.portable);
    drop(host);
    B::exit(done.is_ok())
}
