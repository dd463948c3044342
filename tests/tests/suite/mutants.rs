//! Files with changed fields and repaired checksums: what opens gives the same bytes with portable and native kernels, at
//! once and in steps, whatever the arena held before; what must not open is refused without a panic.

use rayon::prelude::*;
use shiftformer::format::{CRC, HEADER_BYTES, SECTION_ENTRY_BYTES, SectionKind, field, header_crc};
use shiftformer::kernels::{Kernels, Native, Portable};
use shiftformer::ops::{Op, OpTable};
use shiftformer::tensor::Dtype;
use shiftformer::{Model, Progress, Proven, RunFault, Session};
use shiftformer_convert::convert::{ConvertOptions, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, Values};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Mutants with more work or more memory are opened, and not run.
const MAX_MACS: u64 = 1 << 25;
const MAX_ARENA: usize = 1 << 20;

/// Repeatable numbers (xorshift*).
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, limit: usize) -> usize {
        self.bits() as usize % limit.max(1)
    }

    /// A value near `old`, near a limit of its type, or anywhere.
    fn value(&mut self, old: u32) -> u32 {
        match self.below(12) {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << 31,
            3 => old.wrapping_add(1),
            4 => old.wrapping_sub(1),
            5 => old.wrapping_mul(2),
            6 => old / 2,
            7 => old ^ 1 << self.below(32),
            8 => old.wrapping_neg(),
            9 => (old & !15).wrapping_add(16 * self.below(64) as u32),
            10 => self.below(300) as u32,
            _ => self.bits(),
        }
    }
}

fn word(file: &[u8], at: usize) -> u32 {
    file.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn set(file: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = file.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
        *bytes = value.to_le_bytes();
    }
}

/// Where the sections of `file` lie, by the codes of their kinds.
fn section(file: &[u8], kind: SectionKind) -> (usize, usize) {
    let entries = file[HEADER_BYTES..].chunks_exact(SECTION_ENTRY_BYTES).take(usize::from(file[field::N_SECTIONS]));
    let mut found = entries.filter(|entry| word(entry, 0) == kind as u32);
    found.next().map_or((0, 0), |entry| (word(entry, 4) as usize, word(entry, 8) as usize))
}

/// `file` with one to three changes and its checksums repaired.
fn mutate(file: &mut [u8], numbers: &mut Numbers) {
    use SectionKind::{Certificate, Io, Ops, Params, Receipts, Tensors, Weights};
    for _ in 0..=numbers.below(3) {
        let kind = match numbers.below(100) {
            0..3 => {
                let at = [8, 12, 16, 20, 24, 26, 4, 36][numbers.below(8)];
                let value = numbers.value(word(file, at));
                set(file, at, value);
                continue;
            }
            3..5 => {
                let at = HEADER_BYTES + 4 * numbers.below(4 * usize::from(file[field::N_SECTIONS]));
                let value = numbers.value(word(file, at));
                set(file, at, value);
                continue;
            }
            5..25 => Ops,
            25..50 => Tensors,
            50..80 => Params,
            80..84 => Io,
            84..92 => Certificate,
            92..98 => Weights,
            _ => Receipts,
        };
        let (start, bytes) = section(file, kind);
        if kind == Ops && numbers.below(3) == 0 {
            // One operator twice, or another operand.
            let (from, to) = (start + 32 * numbers.below(bytes / 32), start + 32 * numbers.below(bytes / 32));
            match numbers.below(2) {
                0 if from + 32 <= file.len() && to + 32 <= file.len() => file.copy_within(from..from + 32, to),
                _ => set(file, to + 2, word(file, to + 2) & 0xffff_0000 | numbers.below(60) as u32),
            }
            continue;
        }
        let at = start + 4 * numbers.below(bytes / 4);
        let value = numbers.value(word(file, at));
        set(file, at, value);
    }
    repair(file);
}

fn repair(file: &mut [u8]) {
    let head = word(file, field::HEADER_BYTES) as usize;
    if let Some((_, payload)) = file.split_at_checked(head) {
        let payload = CRC.checksum(payload);
        set(file, field::PAYLOAD_CRC, payload);
        let header = file.get(..head).and_then(header_crc).unwrap_or(0);
        set(file, field::HEADER_CRC, header);
    }
}

/// How a mutant runs.
#[derive(Clone, Copy)]
enum Way {
    AtOnce,
    InSteps,
}

/// The outputs, or the fault.
fn run<B: Kernels>(model: &Model<'_, B>, way: Way, seed: u64, before: u8) -> Result<Vec<u8>, RunFault> {
    let mut arena = vec![u128::from_ne_bytes([before; 16]); model.arena_bytes().div_ceil(16)];
    let mut state = vec![u128::from_ne_bytes([before; 16]); model.state_bytes().div_ceil(16)];
    let (arena, state) = (bytemuck::cast_slice_mut(&mut arena), bytemuck::cast_slice_mut(&mut state));
    // No byte more than the model asks for.
    let (arena, state) = (&mut arena[..model.arena_bytes()], &mut state[..model.state_bytes()]);
    let mut session = Session::with_state(model, arena, state).expect("the memory is what the model asks for");
    let mut numbers = Numbers(seed | 1);
    for index in 0..model.n_inputs() {
        // Ids are small enough for most tables.
        let limit = model.input(index).map_or(256, |tensor| if tensor.dtype == Dtype::I32 { 4 } else { 256 });
        let input = session.input_mut(index).expect("inputs are there");
        let step = if limit == 4 { 4 } else { 1 };
        input.iter_mut().step_by(step).for_each(|byte| *byte = numbers.below(limit) as u8);
        input.iter_mut().enumerate().filter(|(at, _)| at % step > 0).for_each(|(_, byte)| *byte = 0);
    }
    match way {
        Way::AtOnce => session.run()?,
        Way::InSteps => while session.step()? != Progress::Done {},
    }
    Ok((0..model.n_outputs()).flat_map(|index| session.output(index).expect("outputs are there")).copied().collect())
}

/// What became of the mutants.
#[derive(Default)]
struct Tally {
    opened: AtomicU64,
    ran: AtomicU64,
    faults: AtomicU64,
}

fn check(file: &[u8], seed: u64, tally: &Tally) {
    let portable = Model::<Portable>::open_with(file, OpTable::ALL);
    let Ok(portable) = portable else { return };
    let native = Model::<Native>::open_with(file, OpTable::ALL).expect("what one opens the other does");
    let proven = Proven::new(file, Proven::checksum(file)).expect("its own checksum");
    assert!(Model::<Native>::open_proven(&proven, OpTable::ALL).is_ok(), "less is checked");
    tally.opened.fetch_add(1, Ordering::Relaxed);
    let ops = (0..portable.n_ops()).filter_map(|op| Op::decode(portable.op_kind(op)?, portable.op_params(op)?));
    let macs = ops.fold(0u64, |sum, op| sum.saturating_add(op.macs()));
    if macs > MAX_MACS || portable.arena_bytes() > MAX_ARENA || portable.state_bytes() > MAX_ARENA {
        return;
    }
    let first = run(&portable, Way::AtOnce, seed, 0x5a);
    assert_eq!(run(&portable, Way::InSteps, seed, 0x33), first, "portable, in steps");
    assert_eq!(run(&native, Way::AtOnce, seed, 0xa5), first, "native");
    assert_eq!(run(&native, Way::InSteps, seed, 0), first, "native, in steps");
    let count = if first.is_ok() { &tally.ran } else { &tally.faults };
    count.fetch_add(1, Ordering::Relaxed);
}

/// Checks `count` mutants of `file`.
fn mutants(name: &str, file: &[u8], count: u64) {
    let tally = Tally::default();
    check(file, 1, &tally);
    assert_eq!(tally.ran.load(Ordering::Relaxed), 1, "{name} runs as it is");
    (1..=count).into_par_iter().for_each_init(
        || vec![0u128; file.len().div_ceil(16)],
        |memory, case| {
            let mutant = &mut bytemuck::cast_slice_mut(memory)[..file.len()];
            mutant.copy_from_slice(file);
            mutate(mutant, &mut Numbers(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(mutant, case, &tally)));
            assert!(checked.is_ok(), "mutant {case} of {name}");
        },
    );
    let [opened, ran, faults] = [&tally.opened, &tally.ran, &tally.faults].map(|n| n.load(Ordering::Relaxed));
    eprintln!("{count} mutants of {name}: {opened} opened, {ran} ran, {faults} ended with a fault");
    assert!(ran > count / 100, "{name}: most are refused; those that are not are what this test is for");
}

/// A model without its receipts, names and scales: what is mutated is what counts.
fn stripped(file: &ModelFile) -> Vec<u8> {
    let mut parts = ModelParts::of(&file.open::<Portable>().expect("converted models open"), file.annotations());
    parts.receipts.clear();
    parts.write().expect("written again")
}

#[test]
fn mutants_of_digits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits/digits-vit-qdq.onnx");
    let graph = fuse(import(&path, &ImportOptions::default()).unwrap());
    for unfused_attention in [false, true] {
        let options = ConvertOptions { unfused_attention, ..ConvertOptions::default() };
        let converted = convert(&graph, &[], &options, &mut |_| {}).unwrap();
        mutants("digits", &stripped(&ModelFile::from_bytes(&converted.file).unwrap()), 100_000);
    }
}

#[test]
fn mutants_of_swin_and_bert() {
    let Some(folder) = shiftformer_tests::shared() else { return };
    for name in ["swin_timm", "bert_hf"] {
        let zoo = folder.join("models/zoo").join(name);
        let graph = fuse(import(&zoo.with_extension("onnx"), &ImportOptions::default()).unwrap());
        let data = Dataset::open(&zoo.with_extension("npz")).unwrap();
        let sample = |index| -> Vec<Values> {
            graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name).unwrap().sample(index)).collect()
        };
        let samples: Vec<_> = (0..4).map(sample).collect();
        let converted = convert(&graph, &samples, &ConvertOptions::default(), &mut |_| {}).unwrap();
        mutants(name, &stripped(&ModelFile::from_bytes(&converted.file).unwrap()), 50_000);
    }
}

#[test]
fn mutants_of_a_decoder() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/arithmetic/arithmetic.sfm");
    let file = ModelFile::from_bytes(&std::fs::read(path).unwrap()).unwrap();
    mutants("arithmetic", &stripped(&file), 20_000);
}
