//! Decoders: what a cached integer model promises, and which models are refused.

use proptest::prelude::*;
use prost::Message;
use shiftformer::format::Place;
use shiftformer::kernels::{Kernels, Native, Portable};
use shiftformer::{Progress, RunFault, Session, SnapshotError};
use shiftformer_convert::backend::{Backend, Host};
use shiftformer_convert::convert::{ConvertOptions, Converted, DecoderRows, convert};
use shiftformer_convert::decoder::{derive, resized};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Causal, Data, Graph, Node, Op};
use shiftformer_convert::import::ImportError;
use shiftformer_convert::import::decoder::import_decoder_bytes;
use shiftformer_convert::import::onnx::attribute_proto::AttributeType;
use shiftformer_convert::import::onnx::tensor_proto::DataType as Elem;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use shiftformer_convert::lower::lower;
use shiftformer_convert::model_file::parts::ModelParts;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::npz::NpzWriter;
use shiftformer_convert::pack::{Annotations, pack};
use shiftformer_convert::program::plan::plan;
use shiftformer_convert::sequences::Sequences;
use std::sync::{Arc, OnceLock};

const VOCABULARY: usize = 24;
const WIDTH: usize = 16;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
/// Rows of the tables of positions.
const POSITIONS: usize = 32;
const CONTEXT: usize = 12;

/// How a test model is written.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// Elements of a head that are rotated; 0: learned positions instead.
    rotary: usize,
    interleaved: bool,
    /// Attention and feed-forward layer read the same normalized rows.
    parallel: bool,
    /// Keys and values come in and go out.
    past: bool,
    /// The pairs are written crosswise.
    crossed: bool,
    causal: bool,
    /// Keys and values are scattered into buffers of [`BUFFER`] positions, in this mode.
    scatter: Option<&'static str>,
}

/// Positions of the buffers of models with `TensorScatter`.
const BUFFER: usize = 16;

const ROTARY: Form = Form {
    rotary: HEAD_DIM,
    interleaved: false,
    parallel: false,
    past: true,
    crossed: false,
    causal: true,
    scatter: None,
};
const LEARNED: Form = Form { rotary: 0, past: false, ..ROTARY };

/// A network under construction.
#[derive(Default)]
struct Net {
    nodes: Vec<NodeProto>,
    stored: Vec<TensorProto>,
    random: u64,
}

fn tensor(name: &str, dims: &[usize], values: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Elem::Float as i32,
        float_data: values,
        ..TensorProto::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

fn text(name: &str, text: &str) -> AttributeProto {
    let (r#type, s) = (AttributeType::String as i32, text.as_bytes().to_vec());
    AttributeProto { name: name.into(), r#type, s, ..AttributeProto::default() }
}

fn list(name: &str, ints: &[i64]) -> AttributeProto {
    let (r#type, ints) = (AttributeType::Ints as i32, ints.to_vec());
    AttributeProto { name: name.into(), r#type, ints, ..AttributeProto::default() }
}

fn value(name: &str, elem: Elem, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: Some(match text.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*text).into()),
        }),
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: elem as i32, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

impl Net {
    fn uniform(&mut self) -> f32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn weight(&mut self, dims: &[usize], size: f32) -> String {
        let name = format!("w{}", self.stored.len());
        let values = (0..dims.iter().product()).map(|_| self.uniform() * size).collect();
        self.stored.push(tensor(&name, dims, values));
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("i{}", self.stored.len());
        self.stored.push(TensorProto {
            name: name.clone(),
            dims: vec![values.len() as i64],
            data_type: Elem::Int64 as i32,
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        name
    }

    fn outputs(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        self.nodes.push(NodeProto {
            op_type: op.into(),
            name: format!("{op}{}", self.nodes.len()),
            input: names(inputs),
            output: names(outputs),
            attribute,
            ..NodeProto::default()
        });
    }

    fn op(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = format!("t{}", self.nodes.len());
        self.outputs(op, inputs, &[&output], attribute);
        output
    }

    fn linear(&mut self, x: &str, from: usize, to: usize) -> String {
        let w = self.weight(&[from, to], 1.7 / (from as f32).sqrt());
        self.op("MatMul", &[x, &w], vec![])
    }

    fn norm(&mut self, x: &str) -> String {
        let gamma = format!("w{}", self.stored.len());
        let values = (0..WIDTH).map(|i| 0.75 + i as f32 / 32.0).collect();
        self.stored.push(tensor(&gamma, &[WIDTH], values));
        self.op("RMSNormalization", &[x, &gamma], vec![])
    }

    fn heads(&mut self, x: &str, heads: usize) -> String {
        let shape = self.ints(&[1, -1, heads as i64, HEAD_DIM as i64]);
        let apart = self.op("Reshape", &[x, &shape], vec![]);
        self.op("Transpose", &[&apart], vec![list("perm", &[0, 2, 1, 3])])
    }

    fn layer(&mut self, x: &str, layer: usize, form: Form) -> String {
        let normed = self.norm(x);
        let q = self.linear(&normed, WIDTH, HEADS * HEAD_DIM);
        let k = self.linear(&normed, WIDTH, KV_HEADS * HEAD_DIM);
        let v = self.linear(&normed, WIDTH, KV_HEADS * HEAD_DIM);
        let (mut q, mut k, v) = (self.heads(&q, HEADS), self.heads(&k, KV_HEADS), self.heads(&v, KV_HEADS));
        if form.rotary > 0 {
            let attributes = || {
                vec![int("interleaved", i64::from(form.interleaved)), int("rotary_embedding_dim", form.rotary as i64)]
            };
            q = self.op("RotaryEmbedding", &[&q, "cos", "sin", "position_ids"], attributes());
            k = self.op("RotaryEmbedding", &[&k, "cos", "sin", "position_ids"], attributes());
        }
        let causal = vec![int("is_causal", i64::from(form.causal))];
        let y = format!("y{layer}");
        let other = if form.crossed { 1 - layer } else { layer };
        if let Some(mode) = form.scatter {
            let buffers = [(&k, "key"), (&v, "value")].map(|(new, part)| {
                let (past, present) = (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}"));
                let attributes = vec![text("mode", mode), int("axis", 2)];
                self.outputs("TensorScatter", &[&past, new, "write_indices"], &[&present], attributes);
                present
            });
            let inputs = [&q, buffers[0].as_str(), &buffers[1], "", "", "", "nonpad_kv_seqlen"];
            self.outputs("Attention", &inputs, &[&y], causal);
        } else if form.past {
            let (key, value) = (format!("past_key_values.{layer}.key"), format!("past_key_values.{layer}.value"));
            let present = [format!("present.{other}.key"), format!("present.{other}.value")];
            self.outputs("Attention", &[&q, &k, &v, "", &key, &value], &[&y, &present[0], &present[1]], causal);
        } else {
            self.outputs("Attention", &[&q, &k, &v], &[&y], causal);
        }
        let turned = self.op("Transpose", &[&y], vec![list("perm", &[0, 2, 1, 3])]);
        let shape = self.ints(&[1, -1, (HEADS * HEAD_DIM) as i64]);
        let rows = self.op("Reshape", &[&turned, &shape], vec![]);
        let mixed = self.linear(&rows, HEADS * HEAD_DIM, WIDTH);
        let sum = self.op("Add", &[x, &mixed], vec![]);
        let normed = if form.parallel { normed } else { self.norm(&sum) };
        let gate = self.linear(&normed, WIDTH, 2 * WIDTH);
        let sigmoid = self.op("Sigmoid", &[&gate], vec![]);
        let silu = self.op("Mul", &[&gate, &sigmoid], vec![]);
        let up = self.linear(&normed, WIDTH, 2 * WIDTH);
        let product = self.op("Mul", &[&silu, &up], vec![]);
        let down = self.linear(&product, 2 * WIDTH, WIDTH);
        self.op("Add", &[&sum, &down], vec![])
    }

    fn angles(&mut self, pairs: usize) {
        for (name, function) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
            let angle = |at: usize| (at / pairs) as f32 * 10f32.powf(-((at % pairs) as f32));
            let values = (0..POSITIONS * pairs).map(|at| function(angle(at))).collect();
            self.stored.push(tensor(name, &[POSITIONS, pairs], values));
        }
    }
}

/// Two layers.
fn model(form: Form) -> ModelProto {
    let mut net = Net { random: 7, ..Net::default() };
    let table = net.weight(&[VOCABULARY, WIDTH], 1.0);
    let mut x = net.op("Gather", &[&table, "input_ids"], vec![]);
    if form.rotary > 0 {
        net.angles(form.rotary / 2);
    } else {
        let positions = net.weight(&[POSITIONS, WIDTH], 0.7);
        let rows = net.op("Gather", &[&positions, "position_ids"], vec![]);
        x = net.op("Add", &[&x, &rows], vec![]);
    }
    for layer in 0..2 {
        x = net.layer(&x, layer, form);
    }
    let normed = net.norm(&x);
    let turned = net.op("Transpose", &[&table], vec![list("perm", &[1, 0])]);
    net.outputs("MatMul", &[&normed, &turned], &["logits"], vec![]);
    let mut input = vec![
        value("input_ids", Elem::Int64, &["batch", "length"]),
        value("position_ids", Elem::Int64, &["batch", "length"]),
    ];
    let mut output = vec![value("logits", Elem::Float, &["batch", "length", "24"])];
    if form.scatter.is_some() {
        input.extend(["write_indices", "nonpad_kv_seqlen"].map(|name| value(name, Elem::Int64, &["batch"])));
    }
    let buffer = BUFFER.to_string();
    let (past, total) = if form.scatter.is_some() { (&*buffer, &*buffer) } else { ("past", "total") };
    for layer in 0..if form.past { 2 } else { 0 } {
        for part in ["key", "value"] {
            let dims = |length| ["batch", "2", length, "8"];
            input.push(value(&format!("past_key_values.{layer}.{part}"), Elem::Float, &dims(past)));
            output.push(value(&format!("present.{layer}.{part}"), Elem::Float, &dims(total)));
        }
    }
    let graph = GraphProto { node: net.nodes, initializer: net.stored, input, output, ..GraphProto::default() };
    let version = if form.scatter.is_some() { 24 } else { 23 };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
    ModelProto { ir_version: 10, graph: Some(graph), opset_import, ..ModelProto::default() }
}

fn import(model: &ModelProto, context: usize) -> Result<Graph, String> {
    import_windowed(model, context, None)
}

fn import_windowed(model: &ModelProto, context: usize, window: Option<usize>) -> Result<Graph, String> {
    let sequence = import_decoder_bytes(&model.encode_to_vec(), None, context).map_err(|error| error.to_string())?;
    derive(&fuse(sequence.graph), context, window).map_err(|error| error.to_string())
}

fn samples() -> Vec<Vec<Values>> {
    let mut net = Net { random: 99, ..Net::default() };
    let mut ids =
        || (0..CONTEXT).map(|_| (net.uniform().abs() * VOCABULARY as f32) as i64 % VOCABULARY as i64).collect();
    (0..24).map(|_| vec![Values::Int(ids())]).collect()
}

fn converted(form: Form, rows: usize) -> Converted {
    converted_windowed(form, rows, None)
}

fn converted_windowed(form: Form, rows: usize, window: Option<usize>) -> Converted {
    let graph = import_windowed(&model(form), CONTEXT, window).unwrap();
    let options = ConvertOptions { decoder: Some(DecoderRows::Fixed(rows)), ..ConvertOptions::default() };
    convert(&graph, &samples(), &options, &mut |_| {}).unwrap()
}

/// The rotary model with runs of 1 and of 5 tokens.
fn rotary() -> &'static [ModelFile; 2] {
    static FILES: OnceLock<[ModelFile; 2]> = OnceLock::new();
    FILES.get_or_init(|| [1, 5].map(|rows| ModelFile::from_bytes(&converted(ROTARY, rows).file).unwrap()))
}

fn with<B: Kernels, T>(file: &ModelFile, work: impl FnOnce(&mut Session<'_, '_, B>) -> T) -> T {
    let model = file.open::<B>().unwrap();
    let garbage = u128::from_le_bytes([0xa5; 16]);
    let mut arena = vec![garbage; model.arena_bytes().div_ceil(16)];
    let mut state = vec![garbage; model.state_bytes().div_ceil(16)];
    let (arena, state) = (bytemuck::cast_slice_mut(&mut arena), bytemuck::cast_slice_mut(&mut state));
    work(&mut Session::with_state(&model, arena, state).unwrap())
}

/// Logits of every token, block by block.
fn logits<B: Kernels>(session: &mut Session<'_, '_, B>, tokens: &[u32], blocks: &[usize]) -> Vec<Vec<u8>> {
    let (mut rows, mut rest) = (Vec::new(), tokens);
    for &block in blocks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(block.min(rest.len()));
        session.prefill(now).unwrap();
        // Of blocks that take several runs, the last one's.
        let run = session.model().state().rows as usize;
        let last = now.len() - (now.len() - 1) / run * run;
        rows.extend((0..last as u32).map(|row| session.row_of_output(row).unwrap().to_vec()));
        rest = later;
    }
    rows
}

fn snapshot<B: Kernels>(session: &Session<'_, '_, B>) -> Vec<u8> {
    let mut bytes = vec![0; session.snapshot_bytes()];
    session.snapshot(&mut bytes).unwrap();
    bytes
}

/// What a snapshot holds besides the checksums of file and bytes.
fn content(snapshot: &[u8]) -> &[u8] {
    &snapshot[8..snapshot.len() - 4]
}

fn tokens(seed: usize) -> Vec<u32> {
    (0..CONTEXT).map(|at| ((seed * 7 + at * at * 5 + at) % VOCABULARY) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Every division of a prompt gives the bytes of single tokens, in the state too, on all kernels.
    #[test]
    fn blocks_of_a_prompt_leave_no_trace(seed in 0usize..1000, blocks in prop::collection::vec(1usize..=5, 1..6)) {
        let tokens = tokens(seed);
        let [single, many] = rotary();
        let want = with::<Portable, _>(single, |session| {
            (logits(session, &tokens, &[1]), content(&snapshot(session)).to_vec())
        });
        prop_assert_eq!(want.0.len(), CONTEXT);
        let portable = with::<Portable, _>(many, |session| {
            (logits(session, &tokens, &blocks), content(&snapshot(session)).to_vec())
        });
        prop_assert_eq!(&portable, &want);
        let native = with::<Native, _>(many, |session| {
            (logits(session, &tokens, &blocks), content(&snapshot(session)).to_vec())
        });
        prop_assert_eq!(&native, &want);
    }

    /// A restored session goes on as if nothing had happened; a cancelled token leaves the state as it was.
    #[test]
    fn what_was_interrupted_goes_on(seed in 0usize..1000, cut in 1usize..CONTEXT, steps in 1usize..40) {
        let tokens = tokens(seed);
        let [single, _] = rotary();
        let (saved, rest) = with::<Portable, _>(single, |session| {
            session.prefill(&tokens[..cut]).unwrap();
            (snapshot(session), logits(session, &tokens[cut..], &[1]))
        });
        with::<Native, _>(single, |session| {
            session.prefill(&tokens[..CONTEXT - 1]).unwrap();
            session.restore(&saved).unwrap();
            assert_eq!(session.position() as usize, cut);
            // A token under way, cancelled.
            session.take_tokens(&[1]).unwrap();
            for _ in 0..steps {
                if session.step().unwrap() == Progress::Done {
                    break;
                }
            }
            let done = session.position() as usize > cut;
            assert!(!done || session.truncate(cut as u32));
            session.cancel();
            assert_eq!(snapshot(session), saved);
            assert_eq!(logits(session, &tokens[cut..], &[1]), rest);
        });
    }
}

#[test]
fn pieces_of_fewer_rows_are_counted_by_the_file() {
    let [_, many] = rotary();
    let parts = || ModelParts::of(&many.open::<Portable>().unwrap(), many.annotations());
    let file = |parts: &ModelParts| ModelFile::from_bytes(&parts.write().unwrap());
    let counted: Vec<usize> = (0..parts().records.len()).filter(|&op| parts().records[op].by_rows > 0).collect();
    assert!(counted.len() * 2 > parts().records.len(), "{counted:?}");
    // Files before 1.7 count none.
    let mut old = parts();
    old.records.iter_mut().for_each(|record| record.by_rows = 0);
    let (old, tokens) = (file(&old).unwrap(), tokens(5));
    let rows = |file: &ModelFile| with::<Native, _>(file, |session| logits(session, &tokens, &[3, 1, 5]));
    assert_eq!(rows(&old), rows(many));
    for op in counted {
        let mut wrong = parts();
        wrong.records[op].by_rows -= 1;
        if wrong.records[op].by_rows > 0 {
            assert!(file(&wrong).is_err(), "operator {op}");
        }
    }
}

#[test]
fn a_cache_gives_the_bytes_of_the_whole_model_without_one() {
    for form in [ROTARY, LEARNED] {
        let converted = converted(form, 1);
        // The same layers without state: all tokens at once, what comes later hidden by a mask.
        let mut graph = converted.graph.clone();
        let mask = (0..CONTEXT * CONTEXT).map(|i| if i % CONTEXT > i / CONTEXT { f32::MIN } else { 0.0 }).collect();
        let mask = graph.add_constant("mask", vec![CONTEXT, CONTEXT], Data::Float(mask));
        for node in &mut graph.nodes {
            if let Op::Attention(attention) = &mut node.op {
                assert_eq!(attention.causal.take(), Some(Causal { positions: CONTEXT, window: CONTEXT }));
                node.inputs.push(mask);
            }
        }
        let lowered = lower(&graph, &converted.calibration, &converted.options).unwrap();
        let annotations = Annotations {
            inputs: lowered.program.inputs.clone(),
            outputs: lowered.program.outputs.clone(),
            ..Annotations::default()
        };
        let whole = pack(&lowered.program, &plan(&lowered.program), &annotations, &[]).unwrap();
        let whole = ModelFile::from_bytes(&whole).unwrap();
        assert_eq!(whole.open::<Portable>().unwrap().state_bytes(), 0);
        let tokens = tokens(3);
        let ids: Vec<u8> = tokens.iter().flat_map(|&token| (token as i32).to_le_bytes()).collect();
        let trace = Host::<Portable>::new("portable", &whole).run(&[vec![ids]]).unwrap().remove(0);
        let cached = ModelFile::from_bytes(&converted.file).unwrap();
        let rows = with::<Portable, _>(&cached, |session| logits(session, &tokens, &[1]));
        assert_eq!(trace.outputs[0], rows.concat(), "{form:?}");
    }
}

#[test]
fn the_forms_of_decoders_keep_their_logits() {
    let partial = Form { rotary: 4, ..ROTARY };
    let forms = [
        ROTARY,
        LEARNED,
        partial,
        Form { interleaved: true, past: false, ..ROTARY },
        Form { interleaved: true, ..partial },
        Form { parallel: true, ..ROTARY },
        Form { scatter: Some("linear"), ..ROTARY },
        Form { scatter: Some("circular"), ..ROTARY },
    ];
    for form in forms {
        let graph = import(&model(form), CONTEXT).unwrap();
        let rotations: Vec<_> = graph
            .nodes
            .iter()
            .filter_map(|node| if let Op::Rope(rope) = &node.op { Some(*rope) } else { None })
            .collect();
        assert_eq!(rotations.len(), if form.rotary > 0 { 4 } else { 0 }, "{form:?}");
        assert!(rotations.iter().all(|rope| rope.interleaved == form.interleaved || rope.rotary == 2), "{form:?}");
        assert!(rotations.iter().all(|rope| rope.rotary == form.rotary || rope.rotary == HEAD_DIM), "{form:?}");
        let converted = converted(form, 2);
        let sqnr = converted.sqnr_db.unwrap();
        assert!(sqnr >= 24.0, "{form:?}: {sqnr:.1} dB");
        let file = ModelFile::from_bytes(&converted.file).unwrap();
        let opened = file.open::<Portable>().unwrap();
        let state = opened.state();
        assert_eq!((state.capacity as usize, state.rows), (CONTEXT, 2));
        // Keys and values of two layers, all of a position in one row.
        let kept =
            (0..opened.sections().n_tensors).filter_map(|t| opened.tensor(t)).filter(|t| t.place == Place::State);
        let bytes: usize = kept.map(|tensor| tensor.bytes()).sum();
        assert_eq!(bytes, 2 * 2 * KV_HEADS * HEAD_DIM * CONTEXT);
    }
}

#[test]
fn a_window_is_kept_in_a_ring() {
    const WINDOW: usize = 7;
    let [ring, many] = [1, 5].map(|rows| converted_windowed(ROTARY, rows, Some(WINDOW)));
    assert!(ring.sqnr_db.unwrap() >= 24.0, "{:?} dB", ring.sqnr_db);
    let [ring, many] = [ring, many].map(|converted| ModelFile::from_bytes(&converted.file).unwrap());
    let plain = &rotary()[0];
    let opened = ring.open::<Portable>().unwrap();
    assert_eq!((opened.state().capacity as usize, opened.window() as usize), (CONTEXT, WINDOW));
    let kept = |file: &ModelFile| file.open::<Portable>().unwrap().state_bytes();
    assert_eq!(kept(&ring), 4 * (WINDOW * KV_HEADS * HEAD_DIM).next_multiple_of(16));
    assert_eq!(kept(&many), kept(plain));
    let all = tokens(3);
    let of = |file: &ModelFile, blocks: &[usize]| with::<Native, _>(file, |session| logits(session, &all, blocks));
    let through_ring = of(&ring, &[1]);
    assert_eq!(of(&many, &[5, 2, 4]), through_ring, "a mask over all positions is the same window");
    assert_eq!(with::<Portable, _>(&ring, |session| logits(session, &all, &[1])), through_ring);
    let float = import_windowed(&model(ROTARY), CONTEXT, Some(WINDOW)).unwrap();
    let whole = import(&model(ROTARY), CONTEXT).unwrap();
    let run = |graph: &Graph| {
        let ids = Data::Int(all.iter().map(|&token| i64::from(token)).collect());
        shiftformer_convert::graph::exec::run(graph, &[ids], &mut |_, _| {}).unwrap().remove(0).to_f32()
    };
    let (float, whole) = (run(&float), run(&whole));
    let seen = WINDOW * VOCABULARY;
    assert!(float[..seen] == whole[..seen] && float[seen..] != whole[seen..]);
    // A prompt with a token that there is not leaves the ring as it was, however long it is.
    with::<Native, _>(&ring, |session| {
        session.prefill(&all[..9]).unwrap();
        let before = snapshot(session);
        let mut wrong = all[9..].to_vec();
        *wrong.last_mut().unwrap() = VOCABULARY as u32;
        assert!(matches!(session.prefill(&wrong), Err(RunFault::Index { .. })));
        assert_eq!(snapshot(session), before);
    });
}

#[test]
fn a_window_in_the_mask_is_found() {
    let sequence = import_decoder_bytes(&model(ROTARY).encode_to_vec(), None, CONTEXT).unwrap();
    let mut graph = fuse(sequence.graph);
    let masks: Vec<_> =
        graph.nodes.iter().filter(|node| matches!(node.op, Op::Attention(_))).map(|node| node.inputs[3]).collect();
    let hide = |graph: &mut Graph, hidden: &dyn Fn(usize, usize) -> bool| {
        for &id in &masks {
            let value = graph.tensors[id].value.as_mut().map(Arc::make_mut);
            let Some(Data::Float(mask)) = value else { panic!("a mask is a constant") };
            assert_eq!(mask.len(), CONTEXT * CONTEXT);
            for (at, value) in mask.iter_mut().enumerate() {
                if hidden(at / CONTEXT, at % CONTEXT) {
                    *value = f32::NEG_INFINITY;
                }
            }
        }
    };
    hide(&mut graph, &|row, key| row >= key + 5);
    let windows = |window: Option<usize>| -> Vec<usize> {
        let decoder = derive(&graph, CONTEXT, window).unwrap();
        let of = |node: &Node| if let Op::Attention(a) = &node.op { a.causal.map(|c| c.window) } else { None };
        decoder.nodes.iter().filter_map(of).collect()
    };
    assert_eq!(windows(None), [5, 5]);
    assert_eq!(windows(Some(3)), [3, 3]);
    assert_eq!(windows(Some(9)), [5, 5]);
    hide(&mut graph, &|row, key| row == 8 && key == 6);
    let error = derive(&graph, CONTEXT, None).unwrap_err().to_string();
    assert!(error.contains("token 8 does not see token 6"), "{error}");
}

#[test]
fn a_derived_decoder_computes_what_the_model_does() {
    let sequence = import_decoder_bytes(&model(ROTARY).encode_to_vec(), None, CONTEXT).unwrap();
    let run = |graph: &Graph, ids: Vec<i64>| {
        shiftformer_convert::graph::exec::run(graph, &[Data::Int(ids)], &mut |_, _| {}).unwrap().remove(0).to_f32()
    };
    let ids: Vec<i64> = tokens(5).iter().map(|&token| i64::from(token)).collect();
    let want = run(&sequence.graph, ids.clone());
    let decoder = derive(&fuse(sequence.graph), CONTEXT, None).unwrap();
    let close = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(close(&run(&decoder, ids.clone()), &want));
    // Fewer rows are the same function of fewer tokens.
    let short = resized(&decoder, 5).unwrap();
    assert!(close(&run(&short, ids[..5].to_vec()), &want[..5 * VOCABULARY]));
}

#[test]
fn faults_of_tokens_leave_the_state_untouched() {
    let [single, many] = rotary();
    for file in [single, many] {
        with::<Portable, _>(file, |session| {
            session.prefill(&[1, 2, 3]).unwrap();
            let before = snapshot(session);
            let beyond = VOCABULARY as u32;
            assert!(matches!(session.prefill(&[4, 5, 6, 7, 8, beyond]), Err(RunFault::Index { .. })));
            assert!(matches!(session.push(u32::MAX), Err(RunFault::Index { .. })));
            assert_eq!(session.prefill(&[0; CONTEXT - 2]), Err(RunFault::Full { capacity: CONTEXT as u32 }));
            assert_eq!(snapshot(session), before);
            session.prefill(&[0; CONTEXT - 3]).unwrap();
            assert_eq!(session.push(0), Err(RunFault::Full { capacity: CONTEXT as u32 }));
        });
    }
    let saved = with::<Portable, _>(single, |session| {
        session.prefill(&[1, 2]).unwrap();
        snapshot(session)
    });
    let other = with::<Portable, _>(many, |session| session.restore(&saved));
    assert_eq!(other, Err(SnapshotError::OtherModel));
}

#[test]
fn models_that_are_no_decoders_are_refused_with_the_reason() {
    let refused = |model: &ModelProto, context: usize, words: &str| {
        let error = import(model, context).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(&model(ROTARY), 0, "--context 0");
    refused(&model(ROTARY), POSITIONS + 1, "at most --context 32");
    refused(&model(LEARNED), POSITIONS + 1, "at most --context 32");
    refused(&model(Form { causal: false, past: false, ..ROTARY }), CONTEXT, "comes later");
    // Behind the end of a circular buffer the model forgets.
    let circular = model(Form { scatter: Some("circular"), ..ROTARY });
    refused(&circular, BUFFER + 1, "at most --context 16");
    assert!(import(&circular, BUFFER).is_ok());
    // Keys and values of one layer under the number of the other.
    refused(&model(Form { crossed: true, ..ROTARY }), CONTEXT, "do not match");
    let mut unwritten = model(ROTARY);
    unwritten.graph.as_mut().unwrap().output.truncate(4);
    refused(&unwritten, CONTEXT, "no output writes the cache `past_key_values.1.value`");
    let mut renamed = model(ROTARY);
    let graph = renamed.graph.as_mut().unwrap();
    graph.output[1].name = "present.7.key".into();
    graph.nodes_rename("present.0.key", "present.7.key");
    refused(&renamed, CONTEXT, "belongs to no cache input");
    let mut unknown = model(ROTARY);
    unknown.graph.as_mut().unwrap().input.push(value("inputs_embeds", Elem::Float, &["1", "length", "16"]));
    refused(&unknown, CONTEXT, "`inputs_embeds` has no meaning");
    let mut merged = model(ROTARY);
    let graph = merged.graph.as_mut().unwrap();
    graph.input.push(value("use_cache_branch", Elem::Bool, &["1"]));
    graph.node.push(NodeProto {
        op_type: "If".into(),
        input: vec!["use_cache_branch".into()],
        output: vec!["chosen".into()],
        ..NodeProto::default()
    });
    refused(&merged, CONTEXT, "merged export");
    let no_attention = import_decoder_bytes(b"", None, CONTEXT);
    assert!(matches!(no_attention, Err(ImportError::Parse(_))));
}

trait Rename {
    fn nodes_rename(&mut self, from: &str, to: &str);
}

impl Rename for GraphProto {
    fn nodes_rename(&mut self, from: &str, to: &str) {
        for name in self.node.iter_mut().flat_map(|node| &mut node.output).filter(|name| *name == from) {
            *name = to.to_owned();
        }
    }
}

#[test]
fn sequences_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let write = |arrays: &[(&str, &[u64], Vec<i64>)]| {
        let mut npz = NpzWriter::new(std::fs::File::create(&path).unwrap());
        for (name, shape, values) in arrays {
            npz.add(name, shape, values.iter().copied()).unwrap();
        }
        npz.finish().unwrap();
    };
    write(&[("ids", &[2, 3], vec![1, 2, 3, 4, 5, 6])]);
    let sequences = Sequences::open(&path).unwrap();
    assert_eq!((sequences.ids[1].clone(), sequences.length(), sequences.vocabulary()), (vec![4, 5, 6], 3, None));
    assert_eq!(sequences.samples(2, 1), [[Values::Int(vec![1, 2])]]);
    assert!(sequences.check(6).unwrap_err().to_string().contains("sequence 1 holds the token 6"));
    assert!(sequences.check(7).is_ok());
    let error = |arrays: &[(&str, &[u64], Vec<i64>)]| {
        write(arrays);
        Sequences::open(&path).unwrap_err().to_string()
    };
    assert!(error(&[("tokens", &[1, 1], vec![0])]).contains("no array `ids`"));
    assert!(error(&[("ids", &[3], vec![0; 3])]).contains("shape [3]"));
    assert!(error(&[("ids", &[0, 3], vec![])]).contains("no tokens"));
    assert!(error(&[("ids", &[1, 2], vec![0; 2]), ("logits", &[2, 2, 3], vec![0; 12])]).contains("do not belong"));
}
