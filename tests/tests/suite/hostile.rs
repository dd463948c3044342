//! Files that a converter would not write: what opens runs the same in any pieces, what must not open is refused.

use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::{Op, OpFault, OpTable};
use shiftformer::{Aligned, Model, ModelError, Progress, Session};
use shiftformer_convert::convert::{ConvertOptions, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::model_file::parts::ModelParts;
use std::path::Path;

/// Files are written, changed and opened this often.
const MUTANTS: u64 = 20_000;
/// Mutants with more work are not run.
const MAX_MACS: u64 = 1 << 22;

/// Repeatable numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    fn below(&mut self, limit: usize) -> usize {
        self.bits() as usize % limit
    }
}

fn digits(unfused: bool) -> ModelParts {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits/digits-vit-qdq.onnx");
    let graph = fuse(import(&path, &ImportOptions::default()).unwrap());
    let options = ConvertOptions { unfused_attention: unfused, ..ConvertOptions::default() };
    let converted = convert(&graph, &[], &options, &mut |_| {}).unwrap();
    let file = ModelFile::from_bytes(&converted.file).unwrap();
    let mut parts = ModelParts::of(&file.open::<Portable>().unwrap(), file.annotations());
    parts.receipts.clear();
    parts
}

fn open<T>(parts: &ModelParts, use_model: impl FnOnce(Result<Model<'_>, ModelError>) -> T) -> Option<T> {
    let file = parts.write().ok()?;
    let mut bytes = Box::new(Aligned([0u8; 128 * 1024]));
    let bytes = bytes.0.get_mut(..file.len())?;
    bytes.copy_from_slice(&file);
    Some(use_model(Model::open_with(bytes, OpTable::<Portable>::ALL)))
}

/// The parameters of an operator with one word changed; `None` where they are those of no operator.
fn mutate(op: &Op, numbers: &mut Numbers) -> Option<Op> {
    let mut words = Vec::new();
    op.encode(&mut |word: u32| words.push(word));
    let at = numbers.below(words.len());
    words[at] = match numbers.below(6) {
        0 => words[at].wrapping_add(1),
        1 => words[at].wrapping_sub(1),
        2 => words[at] ^ 1 << numbers.below(32),
        3 => words[at] / 2,
        4 => 0,
        _ => numbers.bits(),
    };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Op::decode(op.kind(), &bytes)
}

/// The outputs and what is left in the arena, or the fault, of a run in pieces or at once.
fn run<B: shiftformer::kernels::Kernels>(model: &Model<'_, B>, stepwise: bool) -> Result<Vec<u8>, String> {
    let mut arena = Box::new(Aligned([0u8; 64 * 1024]));
    let mut session = Session::new(model, &mut arena.0).map_err(|fault| fault.to_string())?;
    for (at, byte) in session.input_mut(0).ok_or("no input")?.iter_mut().enumerate() {
        *byte = (at * 37) as u8;
    }
    if stepwise {
        while session.step().map_err(|fault| fault.to_string())? != Progress::Done {}
    } else {
        session.run().map_err(|fault| fault.to_string())?;
    }
    session.output(0).map(<[u8]>::to_vec).ok_or_else(|| "no output".to_owned())
}

#[test]
fn mutants_that_open_run_the_same_in_pieces() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut ran) = (0, 0);
    for unfused in [false, true] {
        let model = digits(unfused);
        for _ in 0..MUTANTS / 2 {
            let mut parts = model.clone();
            let op = numbers.below(parts.ops.len());
            match numbers.below(8) {
                0 => parts.records[op].scratch_offset = numbers.bits() & !15,
                1 => parts.records[op].scratch_bytes = numbers.bits(),
                2 => parts.tensors[usize::from(parts.records[op].output)].offset ^= 16 << numbers.below(13),
                _ => match mutate(&parts.ops[op], &mut numbers) {
                    Some(changed) => parts.ops[op] = changed,
                    None => continue,
                },
            }
            let macs = parts.ops.iter().fold(0u64, |sum, op| sum.saturating_add(op.macs()));
            let whole = open(&parts, |model| {
                let model = model.ok()?;
                opened += 1;
                (macs <= MAX_MACS).then(|| [run(&model, false), run(&model, true)])
            });
            if let Some(Some([whole, pieces])) = whole {
                ran += 1;
                assert_eq!(whole, pieces, "operator {op}: {:?}", parts.ops[op]);
            }
        }
    }
    // Most mutants of parameters are refused; those that are not are what this test is for.
    assert!(opened > 1000 && ran > 1000, "{opened} opened, {ran} ran");
    eprintln!("{MUTANTS} mutants: {opened} opened, {ran} ran");
}

fn fault(parts: &ModelParts) -> Option<OpFault> {
    match parts.write() {
        Err(shiftformer_convert::pack::PackError::Op { fault, .. }) => Some(fault),
        _ => open(parts, |model| match model.err() {
            Some(ModelError::Op { fault, .. }) => Some(fault),
            _ => None,
        })?,
    }
}

#[test]
fn output_rows_that_overlap_are_refused() {
    for unfused in [false, true] {
        let mut parts = digits(unfused);
        assert_eq!(fault(&parts), None);
        let mut changed = 0;
        for op in &mut parts.ops {
            if let Op::Attention(shiftformer::ops::attention::Attention { attention })
            | Op::AttentionValues(shiftformer::ops::attention::AttentionValues { attention }) = op
            {
                attention.out.row -= 1;
                changed += 1;
            }
        }
        assert!(changed > 0);
        assert_eq!(fault(&parts), Some(OpFault::Alias));
    }
}

#[test]
fn scratch_memory_beyond_the_address_space_is_refused() {
    let mut parts = digits(false);
    let op = parts.records.iter().position(|record| record.scratch_bytes > 0).unwrap();
    parts.records[op].scratch_offset = u32::MAX - 15;
    assert_eq!(fault(&parts), Some(OpFault::Scratch));
}

#[test]
fn a_missing_entry_of_the_operator_table_names_the_command_that_makes_it() {
    let file = digits(false).write().unwrap();
    let mut bytes = Box::new(Aligned([0u8; 128 * 1024]));
    let bytes = &mut bytes.0[..file.len()];
    bytes.copy_from_slice(&file);
    let error = Model::<Native>::open_with(bytes, &[]).err().unwrap().to_string();
    assert!(error.contains("not in the operator table") && error.contains("codegen"), "{error}");
}
