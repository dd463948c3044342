//! A decoder on an emulated machine: blocks of tokens go to it and logits come back while it runs.
//!
//! The files that the machine reads and writes are named pipes.

use super::{POLL, Qemu, START_LIMIT};
use crate::sequence::{Decoder, SequenceRunError};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shiftformer_convert::backend::BackendError;
use shiftformer_link::{Job, Record, Records};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Instant;
use tempfile::TempDir;

/// How often a machine that does not answer is looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Bytes of a record before its payload.
const HEAD: usize = 8;

/// A machine that waits for tokens.
pub struct Tokens {
    name: String,
    child: Child,
    samples: File,
    answer: File,
    position: u32,
    /// Holds the pipes.
    _folder: TempDir,
}

impl Qemu {
    /// Starts the machine with the model, at position 0.
    ///
    /// # Errors
    /// [`BackendError::Run`].
    pub fn tokens(&self) -> Result<Tokens, BackendError> {
        let folder = tempfile::tempdir().map_err(|e| self.fault(format!("cannot make a temporary folder: {e}")))?;
        let job = Job { tokens: true, ..self.job(0) };
        let bytes = [&job.encode()[..], self.model.bytes()].concat();
        fs::write(folder.path().join("job.bin"), bytes)
            .map_err(|e| self.fault(format!("cannot write job.bin: {e}")))?;
        let pipe = |name: &str| {
            let path = folder.path().join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(std::io::Error::from)?;
            // Both ends: opening waits for nobody, and a machine that ends is seen by its process.
            File::options().read(true).write(true).open(path)
        };
        let open = |name: &str| pipe(name).map_err(|e| self.fault(format!("cannot make the pipe {name}: {e}")));
        let (samples, answer) = (open("samples.bin")?, open("answer.bin")?);
        let mut command = self.command(folder.path(), None);
        let child = command.stderr(Stdio::null()).spawn().map_err(|e| self.fault(format!("cannot start: {e}")))?;
        Ok(Tokens { name: self.name.clone(), child, samples, answer, position: 0, _folder: folder })
    }
}

impl Tokens {
    fn fault(&self, why: impl std::fmt::Display) -> SequenceRunError {
        SequenceRunError::Backend(BackendError::Run { backend: self.name.clone(), why: why.to_string() })
    }

    fn send(&mut self, words: &[u32]) -> Result<(), SequenceRunError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.samples.write_all(&bytes).map_err(|e| self.fault(format!("cannot write tokens: {e}")))
    }

    /// Fills `bytes` with what the machine writes next.
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), SequenceRunError> {
        let (mut at, started) = (0, Instant::now());
        while at < bytes.len() {
            let ready =
                poll(&mut [PollFd::new(&self.answer, PollFlags::IN)], Some(&LOOK)).map_err(|e| self.fault(e))?;
            if ready == 0 {
                if let Some(status) = self.child.try_wait().map_err(|e| self.fault(e))? {
                    return Err(self.fault(format!("the machine stopped without a result ({status})")));
                }
                if started.elapsed() > START_LIMIT {
                    return Err(self.fault(format!("the emulator did not answer within {} s", START_LIMIT.as_secs())));
                }
                continue;
            }
            at += self.answer.read(&mut bytes[at..]).map_err(|e| self.fault(e))?;
        }
        Ok(())
    }

    /// The bytes of the next record.
    fn record(&mut self) -> Result<Vec<u8>, SequenceRunError> {
        let mut bytes = vec![0; HEAD];
        self.read(&mut bytes)?;
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        bytes.resize(HEAD + length as usize, 0);
        self.read(&mut bytes[HEAD..])?;
        Ok(bytes)
    }
}

impl Decoder for Tokens {
    fn feed(&mut self, tokens: &[u32], row: &mut dyn FnMut(&[u8])) -> Result<(), SequenceRunError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let words: Vec<u32> = [tokens.len() as u32].into_iter().chain(tokens.iter().copied()).collect();
        self.send(&words)?;
        loop {
            let bytes = self.record()?;
            match Records::new(&bytes).next() {
                Some(Ok(Record::Output(bytes))) => row(bytes),
                Some(Ok(Record::SampleEnd)) => {
                    self.position += tokens.len() as u32;
                    return Ok(());
                }
                Some(Ok(Record::Rejected(text) | Record::Failed(text))) => {
                    return Err(self.fault(String::from_utf8_lossy(text)));
                }
                Some(Ok(
                    Record::Calibration { .. }
                    | Record::Inference { .. }
                    | Record::Overhead(_)
                    | Record::Op { .. }
                    | Record::Dump(_)
                    | Record::Done,
                )) => {}
                Some(Err(_)) | None => return Err(self.fault("its answer breaks off")),
            }
        }
    }

    fn position(&self) -> u32 {
        self.position
    }

    fn reset(&mut self) -> Result<(), SequenceRunError> {
        self.position = 0;
        self.send(&[Job::RESET])
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        // A machine that is well ends by itself; any other is ended. Nothing is left to be done where that fails.
        let asked = self.send(&[0]).is_ok();
        let started = Instant::now();
        while asked && started.elapsed().as_secs() < 2 && matches!(self.child.try_wait(), Ok(None)) {
            sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
