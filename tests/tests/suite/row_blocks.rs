//! Chains of operators in blocks of rows: the bytes of the whole operators, in less memory; broken chains are refused.

use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::{OpFault, OpKind};
use shiftformer::{Aligned, AlignedBytes, Digests, Model, ModelError, Progress, Session};
use shiftformer_convert::convert::{ConvertOptions, Converted, Switch, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::merge_row_blocks::merge_row_blocks;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend::{self, Backend, Host, Sample};
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A model and data of the shared folder; `None`, said aloud, where they are missing.
fn shared(model: &str, data: &str) -> Option<[PathBuf; 2]> {
    let folder = shiftformer_tests::shared()?;
    let paths = [model, data].map(|path| folder.join("models").join(path));
    if !paths[0].exists() {
        eprintln!("SKIPPED: {} is not here; set SHIFTFORMER_SHARED", paths[0].display());
        return None;
    }
    Some(paths)
}

/// Converts `model` in each of the forms, calibrated with `samples` samples; also returns the bytes of those samples.
fn converted<const N: usize>(
    [model, data]: &[PathBuf; 2],
    samples: usize,
    forms: [ConvertOptions; N],
) -> ([Converted; N], Vec<Sample>) {
    let graph = fuse(import(model, &ImportOptions::default()).unwrap());
    let data = Dataset::open(data).unwrap();
    let values = |s: usize| -> Vec<Values> {
        graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name).unwrap().sample(s)).collect()
    };
    let values: Vec<_> = (0..data.samples().min(samples)).map(values).collect();
    let forms = forms.map(|options| convert(&graph, &values, &options, &mut |_| {}).unwrap());
    let file = ModelFile::from_bytes(&forms[0].file).unwrap();
    let encode = |sample: &Vec<Values>| sample.iter().enumerate().map(|(i, v)| file.encode(i, v).unwrap()).collect();
    let bytes = values.iter().map(encode).collect();
    (forms, bytes)
}

fn options(row_blocks: Switch) -> ConvertOptions {
    ConvertOptions {
        row_blocks,
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        wide_exp: Switch::Off,
        ..ConvertOptions::default()
    }
}

fn digits() -> [PathBuf; 2] {
    [root("models/digits/digits-vit.onnx"), root("models/digits/calib.npz")]
}

/// The kernels of this machine with the operators as the file has them: `native` runs whole ones.
const NATIVE_IN_BLOCKS: &str = "native in blocks";

fn chains(file: &[u8]) -> usize {
    let file = ModelFile::from_bytes(file).unwrap();
    let model = file.open::<Portable>().unwrap();
    (0..model.n_ops()).filter(|&op| model.op_record(op).unwrap().chained).count()
}

/// The same outputs, and the same digest of every operator that both forms have.
fn assert_same(whole: &[u8], blocks: &[u8], samples: &[Sample], backends: &[&str]) {
    let [whole, blocks] = [whole, blocks].map(|file| ModelFile::from_bytes(file).unwrap());
    let expected = backend::open("portable", &whole).unwrap().run(samples).unwrap();
    for &backend in backends {
        let found = match backend {
            NATIVE_IN_BLOCKS => Host::<Native>::new(backend, &blocks).run(samples),
            _ => backend::open(backend, &blocks).and_then(|mut backend| backend.run(samples)),
        };
        let found = found.unwrap();
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected.outputs, found.outputs, "{backend}");
            let mut compared = 0;
            for (op, digest) in found.digests.iter().enumerate() {
                // Queries, keys and values are one operator or two; the copies of a concatenation share a name.
                let name = blocks.op_name(op);
                let named = |file: &ModelFile| {
                    let found: Vec<usize> =
                        (0..file.annotations().ops.len()).filter(|&i| file.op_name(i) == name).collect();
                    if let [one] = found[..] { Some(one) } else { None }
                };
                let (Some(_), Some(same)) = (named(&blocks), named(&whole)) else { continue };
                assert_eq!(*digest, expected.digests[same], "{backend}: `{}`", blocks.op_name(op));
                compared += 1;
            }
            assert!(compared * 2 > found.digests.len(), "{compared} of {} compared", found.digests.len());
        }
    }
}

#[test]
fn blocks_of_rows_give_the_bytes_of_whole_operators() {
    let zoo = ["bert_hf", "swin_timm", "vit_timm"].map(|m| shared(&format!("zoo/{m}.onnx"), &format!("zoo/{m}.npz")));
    let others = [
        shared("mnist-vit/mnist-vit.onnx", "mnist-vit/calib.npz"),
        shared("block/block-50x64.onnx", "block/block-50x64.npz"),
        shared("kwt1/kwt1.onnx", "kwt1/eval.npz"),
    ];
    let mut some = 0;
    for paths in [Some(digits())].into_iter().chain(zoo).chain(others).flatten() {
        let ([whole, blocks], samples) = converted(&paths, 4, [options(Switch::Off), options(Switch::On)]);
        assert!(blocks.plan.arena_bytes <= whole.plan.arena_bytes);
        assert_eq!(chains(&whole.file), 0);
        some += chains(&blocks.file);
        assert_same(&whole.file, &blocks.file, &samples, &["portable", "native", NATIVE_IN_BLOCKS]);
    }
    assert!(some > 0);
}

#[test]
fn a_host_runs_blocks_of_rows_as_whole_operators() {
    let block = shared("block/block-50x64.onnx", "block/block-50x64.npz");
    [Some(digits()), block].into_iter().flatten().for_each(|paths| runs_as_whole_operators(&paths));
}

fn runs_as_whole_operators(paths: &[PathBuf; 2]) {
    let ([blocks], samples) = converted(paths, 4, [options(Switch::On)]);
    let file = ModelFile::from_bytes(&blocks.file).unwrap();
    let whole = merge_row_blocks(&file).unwrap();
    assert!(chains(&blocks.file) > 0);
    assert_eq!(chains(whole.bytes()), 0);
    // Operators keep their numbers; those that a chain repeats are copies.
    let [before, after] = [&file, &whole].map(|file| file.open::<Portable>().unwrap());
    assert_eq!(before.n_ops(), after.n_ops());
    for op in 0..before.n_ops() {
        let repeats = file.op_name(op).ends_with("/again");
        let kind = if repeats { Some(OpKind::Copy) } else { before.op_kind(op) };
        assert_eq!(after.op_kind(op), kind, "{}", file.op_name(op));
    }
    // `native` runs the whole operators, `portable` the blocks: every operator gives the same.
    let [expected, found] =
        ["portable", "native"].map(|name| backend::open(name, &file).unwrap().run(&samples).unwrap());
    assert_eq!(expected, found);
    // A file without chains stays as it is.
    assert_eq!(merge_row_blocks(&whole).unwrap().bytes(), whole.bytes());
}

#[test]
fn the_runtime_runs_blocks_of_rows_as_whole_operators() {
    let block = shared("block/block-50x64.onnx", "block/block-50x64.npz");
    for paths in [Some(digits()), block].into_iter().flatten() {
        let ([blocks, plain], samples) = converted(&paths, 1, [options(Switch::On), options(Switch::Off)]);
        let file = ModelFile::from_bytes(&blocks.file).unwrap();
        let model = file.open::<Native>().unwrap();
        assert!(chains(&blocks.file) > 0);
        let mut tables = vec![0; model.whole_tables_bytes()];
        let needed = tables.len();
        let short = model.whole(&mut tables[..needed - 1]).err();
        assert_eq!(short, Some(ModelError::Tables { needed, given: needed - 1 }));
        let mut tables = vec![0; needed];
        let whole = model.whole(&mut tables).unwrap();
        assert!((0..whole.n_ops()).all(|op| !whole.op_record(op).unwrap().chained));
        assert!((0..whole.sections().n_tensors).all(|tensor| whole.tensor(tensor).unwrap().window == 0));
        assert!(whole.arena_bytes() > model.arena_bytes());
        assert_eq!(digests(&model, &samples[0]), digests(&whole, &samples[0]));
        // A model without blocks needs no tables.
        let file = ModelFile::from_bytes(&plain.file).unwrap();
        let model = file.open::<Native>().unwrap();
        assert_eq!(model.whole_tables_bytes(), 0);
        assert_eq!(model.whole(&mut []).unwrap().arena_bytes(), model.arena_bytes());
    }
}

/// The digest of every operator.
fn digests(model: &Model<'_, Native>, sample: &Sample) -> Vec<(usize, u64)> {
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(model, &mut arena).unwrap();
    for (index, input) in sample.iter().enumerate() {
        session.input_mut(index).unwrap().copy_from_slice(input);
    }
    let mut found = Vec::new();
    session.run_with(&mut Digests::new(|op, digest| found.push((op, digest)))).unwrap();
    found.sort_unstable();
    found
}

#[test]
fn steps_through_blocks_end_where_a_run_ends() {
    let ([blocks], samples) = converted(&digits(), 2, [options(Switch::On)]);
    let file = ModelFile::from_bytes(&blocks.file).unwrap();
    let model = file.open::<Portable>().unwrap();
    assert!(chains(&blocks.file) > 0);
    let mut arena = Aligned([0u8; 64 * 1024]);
    let mut session = Session::new(&model, &mut arena.0).unwrap();
    session.input_mut(0).unwrap().copy_from_slice(&samples[0][0]);
    session.run().unwrap();
    let expected = session.output(0).unwrap().to_vec();
    session.input_mut(0).unwrap().copy_from_slice(&samples[0][0]);
    let mut steps = 0;
    while session.step().unwrap() != Progress::Done {
        steps += 1;
    }
    assert!(steps > model.n_ops());
    assert_eq!(session.output(0).unwrap(), expected);
}

/// The arena of DeiT-Tiny (197 tokens) is a quarter of that with the score matrix, and the outputs are the same.
#[test]
fn deit_needs_a_quarter_of_the_memory_with_the_score_matrix() {
    let Some(paths) = shared("deit-tiny/deit-tiny-random.onnx", "deit-tiny/eval.npz") else { return };
    let unfused = ConvertOptions { unfused_attention: true, ..options(Switch::Off) };
    let ([matrix, whole, blocks], samples) =
        converted(&paths, 1, [unfused, options(Switch::Off), options(Switch::Auto)]);
    let sizes = [&matrix, &whole, &blocks].map(|c| c.plan.arena_bytes);
    eprintln!("score matrix {} bytes, whole operators {} bytes, blocks of rows {} bytes", sizes[0], sizes[1], sizes[2]);
    assert!(sizes[2] * 4 <= sizes[0], "{sizes:?}");
    assert_same(&whole.file, &blocks.file, &samples, &["native", NATIVE_IN_BLOCKS]);
    let run = |file: &[u8]| {
        let model = ModelFile::from_bytes(file).unwrap();
        backend::open("native", &model).unwrap().run(&samples).unwrap().remove(0).outputs
    };
    assert_eq!(run(&matrix.file), run(&blocks.file));
}

#[test]
fn broken_chains_are_refused() {
    let block = shared("block/block-50x64.onnx", "block/block-50x64.npz");
    [Some(digits()), block].into_iter().flatten().for_each(|paths| refuse_when_broken(&paths));
}

fn refuse_when_broken(paths: &[PathBuf; 2]) {
    let ([blocks], _) = converted(paths, 1, [options(Switch::On)]);
    let file = ModelFile::from_bytes(&blocks.file).unwrap();
    let parts = ModelParts::of(&file.open::<Portable>().unwrap(), file.annotations());
    let open = |parts: &ModelParts| -> Result<(), ModelError> {
        let file = parts.write().unwrap();
        let mut bytes = Box::new(Aligned([0u8; 128 * 1024]));
        let bytes = &mut bytes.0[..file.len()];
        bytes.copy_from_slice(&file);
        Model::<Native>::open_with(bytes, shiftformer::ops::OpTable::<Native>::ALL).map(|_| ())
    };
    let chain = |result: Result<(), ModelError>| matches!(result, Err(ModelError::Op { fault: OpFault::Chain, .. }));
    assert_eq!(open(&parts), Ok(()));
    let second = (1..parts.records.len()).find(|&op| parts.records[op].chained).unwrap();
    let first = usize::from(parts.records[second - 1].output);

    let mut broken = parts.clone();
    broken.records[0].chained = true;
    assert!(chain(open(&broken)), "nothing to be chained to");
    let mut broken = parts.clone();
    broken.records[second].chained = false;
    assert!(chain(open(&broken)), "a window outside a chain");
    let held =
        |op: &usize| parts.records[*op].chained && parts.tensors[usize::from(parts.records[*op].output)].window > 0;
    if let Some(later) = (second..parts.records.len()).find(held) {
        let mut broken = parts.clone();
        broken.tensors[usize::from(parts.records[later].output)].window -= 1;
        assert!(chain(open(&broken)), "windows of different sizes");
    }
    // The whole tensor overlaps its neighbours, or does not fit at all.
    let mut broken = parts.clone();
    broken.tensors[first].window = 0;
    assert!(open(&broken).is_err(), "a chain without a window");
    // The keys and values that a chain reads whole may not lie where it writes.
    let attention = parts.ops.iter().position(|op| op.kind() == OpKind::Attention).unwrap();
    let keys = usize::from(parts.records[attention].inputs[1]);
    let end = (attention + 1..parts.records.len()).take_while(|&op| parts.records[op].chained).last();
    let written = usize::from(parts.records[end.expect("attention is in a chain")].output);
    let mut broken = parts.clone();
    broken.tensors[keys].offset = broken.tensors[written].offset;
    assert!(open(&broken).is_err(), "keys under the output");
}
