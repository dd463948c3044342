//! A host and a device with a line between them that loses, repeats, damages and reorders bytes and frames, and a device that starts
//! anew in the middle: every run ends, and every answer is the right one.

use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::OpTable;
use shiftformer::{AlignedBytes, Digests, Model, Session};
use shiftformer_wire::{Answer, Client, Device, Link, Status, WireError, serve};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Memory of the device.
const MEMORY: usize = 64 * 1024;

fn model() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/reader/dense.sfm");
    std::fs::read(path).expect("the model is there")
}

/// Numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Once in `n` throws.
    fn once_in(&mut self, n: u64) -> bool {
        n > 0 && self.next().is_multiple_of(n)
    }
}

/// How often something happens to a frame, once in so many; 0: never.
#[derive(Clone, Copy, Default)]
struct Harm {
    lost: u64,
    repeated: u64,
    damaged: u64,
    cut: u64,
    reordered: u64,
    reset: u64,
}

/// One direction of a line.
struct Wire {
    to: Sender<Vec<u8>>,
    dice: Dice,
    harm: Harm,
    held: Option<Vec<u8>>,
    frames: Arc<AtomicU64>,
}

impl Wire {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frames.fetch_add(1, Ordering::Relaxed);
        let mut bytes = bytes.to_vec();
        if self.dice.once_in(self.harm.lost) {
            return Ok(());
        }
        if self.dice.once_in(self.harm.damaged) {
            let at = self.dice.next() as usize % bytes.len();
            bytes[at] ^= 1 << (self.dice.next() % 8);
        }
        if self.dice.once_in(self.harm.cut) {
            // Bytes are lost, or come twice.
            let at = self.dice.next() as usize % bytes.len();
            if self.dice.once_in(2) {
                bytes.remove(at);
            } else {
                bytes.insert(at, bytes[at]);
            }
        }
        let twice = self.dice.once_in(self.harm.repeated);
        if self.dice.once_in(self.harm.reordered) && self.held.is_none() {
            self.held = Some(bytes);
            return Ok(());
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.send(bytes.clone()).map_err(gone)?;
        if twice {
            self.to.send(bytes).map_err(gone)?;
        }
        // What was held comes later than what was sent behind it.
        if let Some(held) = self.held.take_if(|_| self.dice.once_in(3)) {
            self.to.send(held).map_err(gone)?;
        }
        Ok(())
    }
}

struct Host {
    wire: Wire,
    from: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Link for Host {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.send(bytes)
    }

    fn receive(&mut self, bytes: &mut [u8], wait: Duration) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.from.recv_timeout(wait) {
                Ok(came) => self.rest = came,
                Err(RecvTimeoutError::Timeout) => return Ok(0),
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = self.rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// The device's end; an error is a reset.
struct End {
    wire: Wire,
    from: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

#[derive(Debug)]
enum Stop {
    Reset,
    Gone,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Stop {}

impl embedded_io::Error for Stop {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::Other
    }
}

impl embedded_io::ErrorType for &mut End {
    type Error = Stop;
}

impl embedded_io::Read for &mut End {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Stop> {
        if self.rest.is_empty() {
            self.rest = self.from.recv().map_err(|_| Stop::Gone)?;
            if self.wire.dice.once_in(self.wire.harm.reset) {
                // Half of what came last is gone as well.
                self.rest.truncate(self.rest.len() / 2);
                return Err(Stop::Reset);
            }
        }
        let count = self.rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

impl embedded_io::Write for &mut End {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        self.wire.send(bytes).map_err(|_| Stop::Gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

/// A client of a device that has `built_in`, and the count of frames that were sent.
fn connected(harm: Harm, seed: u64, built_in: Vec<u8>, memory: usize) -> (Client<Host>, Arc<AtomicU64>) {
    let (to_device, from_host) = channel();
    let (to_host, from_device) = channel();
    let frames = Arc::new(AtomicU64::new(0));
    let wire = |to, seed, harm| Wire { to, dice: Dice(seed | 1), harm, held: None, frames: frames.clone() };
    let mut end = End { wire: wire(to_host, seed, harm), from: from_host, rest: Vec::new() };
    std::thread::spawn(move || {
        let device = Device { board: "bench", counter_hz: 1, ticks: || 0 };
        let built_in = AlignedBytes::from(&built_in[..]);
        loop {
            // Memory after a reset holds anything.
            let mut memory = AlignedBytes::from(&vec![0xa5; memory][..]);
            match serve::<Native, _>(&device, &mut memory, &built_in, &mut end) {
                Ok(()) | Err(Stop::Gone) => return,
                Err(Stop::Reset) => {}
            }
        }
    });
    let host =
        Host { wire: wire(to_device, seed ^ 0x5555, Harm { reset: 0, ..harm }), from: from_device, rest: Vec::new() };
    (Client::new(host, Duration::from_secs(20), Duration::from_micros(300)), frames)
}

/// What the model gives for `inputs` on this machine.
fn expected(file: &[u8], inputs: &[Vec<u8>]) -> Answer {
    let file = AlignedBytes::from(file);
    let model = Model::<Portable>::open_with(&file, OpTable::<Portable>::ALL).expect("the model is valid");
    let mut arena = AlignedBytes::from(&vec![0; model.arena_bytes()][..]);
    let mut session = Session::new(&model, &mut arena).expect("the arena fits");
    for (index, bytes) in inputs.iter().enumerate() {
        session.input_mut(index).expect("there is one").copy_from_slice(bytes);
    }
    let mut ops = vec![Default::default(); model.n_ops()];
    let mut digests = Digests::new(|op, digest| ops[op] = shiftformer_wire::OpResult { digest, ticks: 0 });
    session.run_with(&mut digests).expect("the model runs");
    let outputs = (0..model.n_outputs()).map(|index| session.output(index).expect("there is one").to_vec()).collect();
    Answer { outputs, ops, ticks: 0 }
}

fn inputs(file: &[u8], dice: &mut Dice) -> Vec<Vec<u8>> {
    let file = AlignedBytes::from(file);
    let model = Model::<Portable>::open_with(&file, OpTable::<Portable>::ALL).expect("the model is valid");
    let sizes = (0..model.n_inputs()).map(|index| model.input(index).expect("there is one").bytes());
    sizes.map(|bytes| (0..bytes).map(|_| dice.next() as u8).collect()).collect()
}

#[test]
fn a_good_line_gives_the_bytes_of_this_machine() {
    let file = model();
    let (mut client, _) = connected(Harm::default(), 1, Vec::new(), MEMORY);
    let Status { model, fault, .. } = client.hello().expect("the device answers");
    assert_eq!((model, fault.as_str()), (None, "the device has no model; upload one"));
    let mut arrived = 0;
    let status = client.ensure(&file, &mut |bytes| arrived = bytes).expect("the model is taken");
    assert_eq!(arrived, file.len());
    let about = status.model.expect("there is one");
    assert_eq!(about.bytes as usize, file.len());
    for receipt in 0..about.receipts {
        assert_eq!(client.receipt(receipt).expect("it runs"), None);
    }
    let mut dice = Dice(7);
    for _ in 0..20 {
        let inputs = inputs(&file, &mut dice);
        let expected = expected(&file, &inputs);
        assert_eq!(client.infer(&file, &inputs).expect("it runs"), expected);
        let last = client.op_output(&file, &inputs, expected.ops.len() as u16 - 1).expect("it runs");
        assert_eq!(last, expected.outputs[0]);
    }
}

#[test]
fn a_hundred_thousand_frames_over_a_bad_line() {
    let file = model();
    let harm = Harm { lost: 60, repeated: 40, damaged: 60, cut: 90, reordered: 50, reset: 700 };
    let (mut client, frames) = connected(harm, 0x1234_5678_9abc, file.clone(), MEMORY);
    let (mut dice, mut runs) = (Dice(99), 0);
    while frames.load(Ordering::Relaxed) < 100_000 {
        let inputs = inputs(&file, &mut dice);
        assert_eq!(client.infer(&file, &inputs).expect("the session recovers"), expected(&file, &inputs), "run {runs}");
        runs += 1;
    }
    assert!(runs > 3_000, "{runs}");
}

#[test]
fn uploads_come_through_a_bad_line() {
    let file = model();
    let harm = Harm { lost: 30, repeated: 20, damaged: 30, cut: 50, reordered: 20, reset: 40 };
    let mut arrived = 0;
    for seed in 1..100 {
        let (mut client, _) = connected(harm, seed << 7, Vec::new(), MEMORY);
        let inputs = inputs(&file, &mut Dice(seed));
        match client.infer(&file, &inputs) {
            Ok(answer) => {
                assert_eq!(answer, expected(&file, &inputs));
                arrived += 1;
            }
            // A device that resets every forty frames may do so in each attempt.
            Err(WireError::Restarts) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(arrived > 80, "{arrived}");
}

#[test]
fn what_cannot_be_is_refused() {
    let file = model();
    let (mut client, _) = connected(Harm::default(), 1, file.clone(), MEMORY);
    let mut damaged = file.clone();
    *damaged.last_mut().expect("there are bytes") ^= 1;
    // The same header: the device thinks that it has this model.
    assert!(client.ensure(&damaged, &mut |_| {}).is_ok());
    damaged[shiftformer::format::field::PAYLOAD_CRC] ^= 1;
    let refused = client.ensure(&damaged, &mut |_| {}).expect_err("it is damaged").to_string();
    assert!(refused.contains("checksum"), "{refused}");
    // The device is without a model now, says why, and takes the next.
    let status = client.hello().expect("the device answers");
    assert!(status.model.is_none() && status.fault.contains("checksum"), "{status:?}");
    assert!(client.ensure(&file, &mut |_| {}).is_ok());
    let wrong = client.infer(&file, &[vec![0; 100_000]]).expect_err("the input is too long").to_string();
    assert!(wrong.contains("no such input, or a shorter one"), "{wrong}");
    let (mut client, _) = connected(Harm::default(), 1, Vec::new(), 1024);
    let refused = client.ensure(&file, &mut |_| {}).expect_err("there is no room").to_string();
    assert!(refused.contains("has 1024 bytes"), "{refused}");
    assert!(client.ensure(&[1, 2, 3], &mut |_| {}).is_err());
}
