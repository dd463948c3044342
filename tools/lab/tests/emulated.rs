//! A model on emulated machines: the same bytes as on this one, and instruction counts that add up.
//!
//! Without the emulator the tests say so and pass: `cargo xtask test` installs it first.

use shiftformer::format::{CRC, HEADER_BYTES, Profile, SECTION_ENTRY_BYTES, field, header_crc};
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer::text::{Logits, ONE, Sampler, Sampling};
use shiftformer::{Model, Session};
use shiftformer_convert::convert::{ConvertOptions, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Attention, Binary, Data, DataType, Graph, HeadView, Op, TensorId, Unary};
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, Values, integers};
use shiftformer_convert::sequences::Sequences;
use shiftformer_lab::backend::{self, Backend, Counts, Qemu, Sample};
use shiftformer_lab::sequence::{SequenceRunError, compare, with_decoder};
use shiftformer_link::Machine;
use std::path::Path;
use std::process::Command;

const TOKENS: usize = 6;
const WIDTH: usize = 16;
const HEADS: usize = 2;

/// A source of repeatable numbers in -1..1.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

struct Builder {
    graph: Graph,
    noise: Noise,
}

impl Builder {
    fn node(&mut self, name: &str, op: Op, inputs: Vec<TensorId>, columns: usize) -> TensorId {
        self.graph.add_node(name, op, inputs, vec![TOKENS, columns], DataType::Float)
    }

    fn linear(&mut self, name: &str, x: TensorId, k: usize, n: usize) -> TensorId {
        let weights = self.noise.floats(n * k).into_iter().map(|w| w / (k as f32).sqrt()).collect();
        let weights = self.graph.add_constant(format!("{name}.weight"), vec![n, k], Data::Float(weights));
        let bias = Data::Float(self.noise.floats(n));
        let bias = self.graph.add_constant(format!("{name}.bias"), vec![n], bias);
        self.node(name, Op::Linear, vec![x, weights, bias], n)
    }

    fn attention(&mut self, qkv: TensorId) -> TensorId {
        let head_dim = WIDTH / HEADS;
        let view = |offset, row| HeadView { offset, batch: 0, head: head_dim, row };
        let op = Attention {
            causal: None,
            batch: 1,
            heads: HEADS,
            kv_heads: HEADS,
            n_q: TOKENS,
            n_k: TOKENS,
            head_dim,
            v_dim: head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            q: view(0, 3 * WIDTH),
            k: view(WIDTH, 3 * WIDTH),
            v: view(2 * WIDTH, 3 * WIDTH),
            out: view(0, WIDTH),
        };
        self.node("attention", Op::Attention(op), vec![qkv, qkv, qkv], WIDTH)
    }
}

/// A pre-norm encoder block.
fn encoder_block() -> Graph {
    let mut b = Builder { graph: Graph::default(), noise: Noise(1) };
    let x = b.graph.add_tensor("x", vec![TOKENS, WIDTH], DataType::Float);
    b.graph.inputs.push(x);
    let normed = b.node("norm1", Op::LayerNorm { eps: 1e-5 }, vec![x], WIDTH);
    let qkv = b.linear("qkv", normed, WIDTH, 3 * WIDTH);
    let attended = b.attention(qkv);
    let projected = b.linear("projection", attended, WIDTH, WIDTH);
    let x = b.node("residual1", Op::Binary(Binary::Add), vec![x, projected], WIDTH);
    let normed = b.node("norm2", Op::LayerNorm { eps: 1e-5 }, vec![x], WIDTH);
    let hidden = b.linear("up", normed, WIDTH, 2 * WIDTH);
    let active = b.node("gelu", Op::Unary(Unary::Gelu { tanh: false }), vec![hidden], 2 * WIDTH);
    let down = b.linear("down", active, 2 * WIDTH, WIDTH);
    let y = b.node("residual2", Op::Binary(Binary::Add), vec![x, down], WIDTH);
    b.graph.outputs.push(y);
    b.graph
}

fn model_and_samples(profile: Profile) -> (ModelFile, Vec<Sample>) {
    let mut noise = Noise(2);
    let values: Vec<Vec<Values>> = (0..4).map(|_| vec![Values::Float(noise.floats(TOKENS * WIDTH))]).collect();
    let options = ConvertOptions { profile, ..ConvertOptions::default() };
    let converted = convert(&encoder_block(), &values, &options, &mut |_| ()).expect("the block converts");
    let model = ModelFile::from_bytes(&converted.file).expect("the converter writes valid models");
    let sample = |v: &Vec<Values>| vec![model.encode(0, &v[0]).expect("a sample fits the input")];
    let samples = values.iter().map(sample).collect();
    (model, samples)
}

/// The backend, or `None` with a word on stderr where this machine has no emulator.
fn open(name: &str, model: &ModelFile) -> Option<Box<dyn Backend>> {
    for emulator in Machine::ALL.iter().map(|machine| machine.emulator).chain(["qemu-aarch64"]) {
        if Command::new(emulator).arg("--version").output().is_err() {
            eprintln!("SKIPPED {name}: {emulator} is not installed; run `cargo xtask setup`");
            return None;
        }
    }
    Some(backend::open(name, model).unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn every_machine_gives_the_same_bytes() {
    for profile in [Profile::Shift, Profile::Ivit] {
        let (model, samples) = model_and_samples(profile);
        let here = backend::open("portable", &model).and_then(|mut b| b.run(&samples)).expect("the model runs");
        for name in backend::names().iter().filter(|name| name.starts_with("qemu:")) {
            let board = name.trim_start_matches("qemu:");
            let is_there = Machine::by_name(board).is_none_or(|machine| machine.portable);
            for name in [Some(name.clone()), is_there.then(|| format!("{name}:portable"))].into_iter().flatten() {
                let Some(mut machine) = open(&name, &model) else { return };
                assert_eq!(machine.run(&samples).expect("the model runs"), here, "{name}");
            }
        }
    }
}

#[test]
fn an_operator_output_is_the_same_on_a_board() {
    let (model, samples) = model_and_samples(Profile::Shift);
    let mut here = backend::open("portable", &model).expect("always there");
    let Some(mut board) = open("qemu:mps2-an386", &model) else { return };
    let output = board.op_output(&samples[1], 1).expect("the model runs");
    assert!(!output.is_empty());
    assert_eq!(output, here.op_output(&samples[1], 1).expect("the model runs"));
    assert!(board.op_output(&samples[0], 1000).is_err());
}

#[test]
fn instruction_counts_are_repeatable_and_add_up() {
    let (model, samples) = model_and_samples(Profile::Shift);
    for name in ["qemu:mps2-an386", "qemu:mps2-an500", "qemu:mps2-an505", "qemu:mps3-an547", "qemu:microbit"] {
        let Some(mut board) = open(name, &model) else { return };
        let counts = board.counts(&samples[0]).expect("the model runs").expect("boards count");
        let again = board.counts(&samples[0]).expect("the model runs").expect("boards count");
        // Opening and stepping are measured behind calls of the host, where the clock may stand anywhere within a tick,
        // which is about an instruction: each interval may differ by one.
        for (one, other, intervals) in [
            (counts.open, again.open, 1),
            (counts.open_proven, again.open_proven, 1),
            (counts.longest_step, again.longest_step, 1),
            (counts.all_steps, again.all_steps, u64::from(counts.steps)),
        ] {
            assert!(one.abs_diff(other) <= 2 * intervals, "{name}: {counts:?} {again:?}");
        }
        let Counts { open, open_proven, longest_step, longest_step_op, all_steps, .. } = counts;
        assert_eq!(counts, Counts { open, open_proven, longest_step, longest_step_op, all_steps, ..again }, "{name}");
        let sum: u64 = counts.ops.iter().sum();
        // Finding an operator's output for the observer is counted with the operator, and is all that differs.
        assert!(sum.abs_diff(counts.total) < 200 * counts.ops.len() as u64, "{name}: {counts:?}");
        assert!((200..16 * 1024).contains(&counts.stack_bytes), "{name}: {counts:?}");
        assert!(counts.open_proven < counts.open, "{name}: {counts:?}");
        assert!(counts.steps as usize >= counts.ops.len(), "{name}: {counts:?}");
        assert!(counts.longest_step < counts.total && counts.total < counts.all_steps, "{name}: {counts:?}");
    }
}

/// The bundled text model, and ids of tokens it knows.
fn text_model() -> (ModelFile, Vec<u32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/text/text.sfm");
    let model = ModelFile::from_bytes(&std::fs::read(path).expect("the model is there")).expect("the model is valid");
    (model, (0..13).map(|i| i * 37 % 512).collect())
}

/// What the model writes behind `prompt`, drawn with one seed.
fn written(model: &ModelFile, backend: &str, prompt: &[u32]) -> Result<Vec<u32>, SequenceRunError> {
    with_decoder(model, backend, &mut |decoder| {
        let settings = Sampling { temperature: ONE, top_k: 40, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(settings, 9).expect("the settings are sound");
        let (mut tokens, mut next) = (Vec::new(), prompt.to_vec());
        for _ in 0..12 {
            let mut last = Vec::new();
            decoder.feed(&next, &mut |row| last = row.to_vec())?;
            let logits: Vec<i16> = integers(&last, Dtype::I16).into_iter().map(|v| v as i16).collect();
            let mut scratch = vec![0; logits.len()];
            let token = sampler.next(Logits::i16(&logits, 0), 1 << 20, &[], &mut scratch).expect("there is one");
            tokens.push(token);
            next = vec![token];
        }
        assert_eq!(decoder.position() as usize, prompt.len() + 11);
        Ok(tokens)
    })
}

/// Boards without the memory of a language model.
const SMALL: [&str; 2] = ["microbit", "netduinoplus2"];

#[test]
fn one_seed_gives_one_text_on_every_machine() {
    let (model, prompt) = text_model();
    let here = written(&model, "portable", &prompt).expect("the model runs");
    assert_eq!(written(&model, "native", &prompt).expect("the model runs"), here);
    let ids = Sequences { ids: vec![prompt.iter().map(|&id| i64::from(id)).collect()], logits: None };
    let names = backend::names();
    for name in names.iter().filter(|name| name.starts_with("qemu:") && !SMALL.iter().any(|small| name.contains(small)))
    {
        if open(name, &model).is_none() {
            return;
        }
        assert_eq!(written(&model, name, &prompt).expect("the model runs"), here, "{name}");
        let backends = ["portable".to_owned(), name.clone()];
        let compared = compare(&model, &backends, &ids, None).expect("the model runs");
        assert!(compared.equal, "{name}: {:?}", compared.differences);
    }
}

#[test]
fn a_machine_that_refuses_tokens_goes_on_where_it_was() {
    let (model, prompt) = text_model();
    let name = "qemu:mps2-an386";
    if open(name, &model).is_none() {
        return;
    }
    let logits = |bad: &[u32]| {
        with_decoder(&model, name, &mut |decoder| {
            decoder.feed(&prompt, &mut |_| ())?;
            if !bad.is_empty() {
                let refused = decoder.feed(bad, &mut |_| ()).expect_err("the tokens are refused").to_string();
                assert!(refused.contains("512") || refused.contains("no position is left"), "{refused}");
            }
            let mut rows = Vec::new();
            decoder.feed(&prompt, &mut |row| rows.push(row.to_vec()))?;
            Ok::<_, SequenceRunError>(rows)
        })
        .expect("the model runs")
    };
    assert_eq!(logits(&[1, 2, 3, 4, 5, 512]), logits(&[]));
    assert_eq!(logits(&[1; 128]), logits(&[]));
}

#[test]
fn a_model_that_does_not_fit_the_flash_is_refused_by_how_much() {
    let (model, _) = model_and_samples(Profile::Shift);
    let mut bytes = model.bytes().to_vec();
    // The annotations may be stripped or grow: the size alone matters here.
    bytes.resize(bytes.len() + 300_000, 0);
    let Ok(large) = ModelFile::from_bytes(&bytes) else { return };
    let refused = backend::open("qemu:microbit", &large).map(|_| ()).expect_err("it does not fit");
    assert!(refused.to_string().contains("bytes too large"), "{refused}");
}

#[test]
fn ten_thousand_inferences_on_a_board_are_those_of_this_machine() {
    let (model, _) = model_and_samples(Profile::Shift);
    let mut noise = Noise(3);
    let samples: Vec<Sample> = (0..10_000)
        .map(|_| vec![model.encode(0, &Values::Float(noise.floats(TOKENS * WIDTH))).expect("a sample fits")])
        .collect();
    let Some(mut board) = open("qemu:mps2-an386", &model) else { return };
    let here = backend::open("native", &model).and_then(|mut b| b.run(&samples)).expect("the model runs");
    assert!(board.run(&samples).expect("the model runs") == here, "a digest or an output differs");
}

/// What the portable kernels of this machine make of a file.
#[derive(PartialEq)]
enum Outcome {
    Outputs(Vec<Vec<u8>>),
    Refused,
    /// It takes other samples.
    OtherInputs,
}

fn outcome(file: &[u8], sample: &Sample) -> Outcome {
    let mut memory = vec![0u128; file.len().div_ceil(16)];
    let bytes = &mut bytemuck::cast_slice_mut::<u128, u8>(&mut memory)[..file.len()];
    bytes.copy_from_slice(file);
    let Ok(model) = Model::open(bytes) else { return Outcome::Refused };
    let inputs = (0..model.n_inputs()).map(|index| model.input(index).map(|tensor| tensor.bytes()));
    if !inputs.eq(sample.iter().map(|input| Some(input.len()))) {
        return Outcome::OtherInputs;
    }
    let mut arena = vec![0u128; model.arena_bytes().div_ceil(16)];
    let Ok(mut session) = Session::new(&model, bytemuck::cast_slice_mut(&mut arena)) else { return Outcome::Refused };
    for (index, input) in sample.iter().enumerate() {
        session.input_mut(index).expect("as many as the sample has").copy_from_slice(input);
    }
    if session.run().is_err() {
        return Outcome::Refused;
    }
    Outcome::Outputs((0..model.n_outputs()).map(|index| session.output(index).expect("done").to_vec()).collect())
}

/// A model with one word of its operators, tensors, parameters or weights changed, and its checksums repaired.
fn mutant(model: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut file = model.to_vec();
    let word = |file: &[u8], at: usize| u32::from_le_bytes(*file[at..].first_chunk().expect("inside"));
    let sections = usize::from(file[field::N_SECTIONS]);
    let mut random = |limit: usize| {
        noise.next();
        (noise.0 >> 8) as usize % limit.max(1)
    };
    let entry = HEADER_BYTES + SECTION_ENTRY_BYTES * random(sections);
    let (start, bytes) = (word(&file, entry + 4) as usize, word(&file, entry + 8) as usize);
    let at = start + 4 * random(bytes / 4);
    let old = word(&file, at);
    let value = match random(6) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old ^ 1 << random(32),
        3 => old / 2,
        4 => 0,
        _ => old.wrapping_add(16),
    };
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let head = word(&file, field::HEADER_BYTES) as usize;
    let payload = CRC.checksum(&file[head..]);
    file[field::PAYLOAD_CRC..][..4].copy_from_slice(&payload.to_le_bytes());
    let header = header_crc(&file[..head]).expect("long enough");
    file[field::HEADER_CRC..][..4].copy_from_slice(&header.to_le_bytes());
    file
}

#[test]
fn mutants_on_boards_give_what_they_give_here() {
    let (model, samples) = model_and_samples(Profile::Shift);
    let mut parts = ModelParts::of(&model.open::<Portable>().expect("it opens"), model.annotations());
    parts.receipts.clear();
    let file = parts.write().expect("written again");
    let mut noise = Noise(4);
    // What starts out like the model but needs more memory than the board has is another matter.
    let small =
        |file: &Vec<u8>| u32::from_le_bytes(*file[field::ARENA_BYTES..].first_chunk().expect("a header")) < 1 << 20;
    let files = (0..3500).map(|_| mutant(&file, &mut noise)).filter(small).map(|file| {
        let outcome = outcome(&file, &samples[0]);
        ((file, samples[0].clone()), outcome)
    });
    let (files, expected): (Vec<(Vec<u8>, Sample)>, Vec<Outcome>) =
        files.filter(|(_, outcome)| *outcome != Outcome::OtherInputs).unzip();
    let ran = expected.iter().filter(|outcome| matches!(outcome, Outcome::Outputs(_))).count();
    assert!(files.len() > 2000 && ran > 500, "{} files, {ran} ran", files.len());
    for name in ["mps2-an386", "m0-large"] {
        if open(&format!("qemu:{name}"), &model).is_none() {
            return;
        }
        let board = Qemu::open(&format!("qemu:{name}"), name, &model).expect("it was opened before");
        let outcomes = board.outcomes(&files).expect("the machine answers for all");
        for (index, (outcome, expected)) in outcomes.into_iter().zip(&expected).enumerate() {
            let same = match (&outcome, expected) {
                (Ok(outputs), Outcome::Outputs(expected)) => outputs == expected,
                (Err(_), Outcome::Refused) => true,
                (Ok(_), Outcome::Refused | Outcome::OtherInputs)
                | (Err(_), Outcome::Outputs(_) | Outcome::OtherInputs) => false,
            };
            assert!(same, "mutant {index} on {name}: {outcome:?}");
        }
    }
}

/// What opening and stepping may take on a Cortex-M4: docs/firmware.md states it.
#[test]
fn opening_and_stepping_stay_within_their_limits() {
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits");
    let normalization = Some((0.3057, 0.376));
    let mut models = vec![(digits.join("digits-vit.onnx"), digits.join("calib.npz"), normalization, 250_000)];
    match std::env::var_os("SHIFTFORMER_SHARED") {
        Some(shared) => {
            let kwt = Path::new(&shared).join("models/kwt1");
            models.push((kwt.join("kwt1.onnx"), kwt.join("eval.npz"), None, 3_000_000));
        }
        None => eprintln!("SKIPPED kwt1: SHIFTFORMER_SHARED does not name the folder of public models"),
    }
    for (onnx, data, normalization, open_proven) in models {
        let graph = fuse(import(&onnx, &ImportOptions::default()).expect("it imports"));
        let data = Dataset::open(&data).expect("samples");
        let values = data.input(&graph.tensors[graph.inputs[0]].name).expect("values of the input");
        let samples: Vec<Vec<Values>> = (0..data.samples().min(64)).map(|index| vec![values.sample(index)]).collect();
        let options = ConvertOptions { normalization, ..ConvertOptions::default() };
        let converted = convert(&graph, &samples, &options, &mut |_| ()).expect("it converts");
        let model = ModelFile::from_bytes(&converted.file).expect("the converter writes valid models");
        let Some(mut board) = open("qemu:mps2-an386", &model) else { return };
        let opened = model.open::<Portable>().expect("the converter writes valid models");
        let sample = (0..opened.n_inputs()).filter_map(|index| Some(vec![1; opened.input(index)?.bytes()])).collect();
        let counts = board.counts(&sample).expect("the model runs").expect("boards count");
        let (name, steps) = (onnx.display(), counts.all_steps as f64 / counts.total as f64);
        eprintln!(
            "{name}: opening takes {} instructions, proven {}; the longest step {}, all {steps:.3} of a run",
            counts.open, counts.open_proven, counts.longest_step
        );
        assert!(counts.open_proven <= open_proven, "{name}: {counts:?}");
        assert!(counts.longest_step <= 60_000, "{name}: {counts:?}");
        assert!(steps <= 1.08, "{name}: {counts:?}");
    }
}
