//! Executes a job as a process: what the runner of the boards is for machines with an operating system.
//!
//! Reads `job.bin` and `samples.bin` and writes `answer.bin` in the current directory.

use shiftformer::AlignedBytes;
use shiftformer::kernels::{Native, Portable};
use shiftformer_link::{Host, HostError, execute};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

struct Process {
    samples: BufReader<File>,
    answer: BufWriter<File>,
}

impl Host for Process {
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), HostError> {
        // Whoever sends what is read next may wait for the answer so far.
        self.answer.flush().map_err(|_| HostError)?;
        self.samples.read_exact(buffer).map_err(|_| HostError)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.answer.write_all(bytes).map_err(|_| HostError)
    }

    fn ticks(&mut self) -> u32 {
        0
    }

    fn known_loop(&mut self) -> u32 {
        0
    }

    fn mark_stack(&mut self) {}

    fn stack_bytes(&mut self) -> u32 {
        0
    }
}

/// Arena for any model: pages that are not touched take no memory.
const ARENA_BYTES: usize = 64 << 20;

fn run() -> std::io::Result<bool> {
    let bytes = fs::read("job.bin")?;
    let job = AlignedBytes::from(&bytes[..]);
    let mut arena = AlignedBytes::zeroed(ARENA_BYTES);
    let mut host = Process {
        samples: BufReader::new(File::open("samples.bin")?),
        answer: BufWriter::new(File::create("answer.bin")?),
    };
    let done = execute::<Portable, Native>(&job, &mut arena, &mut host, true);
    host.answer.flush()?;
    Ok(done.is_ok())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
