//! Executes a job that the host put into memory: any model, any samples, no rebuild. See `shiftformer_link`.
//!
//! Samples come from the file `samples.bin` and the answer goes to `answer.bin`, both in the emulator's directory.
#![no_std]
#![no_main]

use board::memory::StackMark;
use board::semihosting::{File, IoError, Mode, exit};
use shiftformer::kernels::{Native, Portable};
use shiftformer_link::{Host, HostError};

struct Emulator {
    samples: File,
    answer: File,
    mark: StackMark,
}

impl Host for Emulator {
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), HostError> {
        self.samples.read(buffer).map_err(|_| HostError)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.answer.write(bytes).map_err(|_| HostError)
    }

    #[inline(always)]
    fn ticks(&mut self) -> u32 {
        board::counter::ticks()
    }

    fn known_loop(&mut self) -> u32 {
        board::counter::known_loop()
    }

    fn mark_stack(&mut self) {
        self.mark = board::memory::mark_stack();
    }

    fn stack_bytes(&mut self) -> u32 {
        self.mark.deepest_bytes() as u32
    }
}

fn connect() -> Result<Emulator, IoError> {
    board::counter::start();
    let samples = File::open(c"samples.bin", Mode::Read)?;
    let answer = File::open(c"answer.bin", Mode::Write)?;
    Ok(Emulator { samples, answer, mark: board::memory::mark_stack() })
}

#[board::entry]
fn main() -> ! {
    let (Ok(mut host), Some(arena)) = (connect(), board::memory::take_arena()) else { exit(false) };
    let done = shiftformer_link::execute::<Portable, Native>(board::memory::job(), arena, &mut host);
    drop(host);
    exit(done.is_ok())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    exit(false)
}
