//! Small models for tests, and the comparison with the portable runtime.

use crate::{Gpu, GpuError, GpuModel, Sample, Selection};
use shiftformer::format::{
    Blob, CRC, CertRecord, HEADER_BYTES, MAGIC, NO_TENSOR, OpRecord, Place, SECTION_ENTRY_BYTES, SectionKind,
    TensorRecord, VERSION_MAJOR, VERSION_MINOR, Word, align_up, field, header_crc,
};
use shiftformer::kernels::Portable;
use shiftformer::ops::{Op, OpFault, OpTable, Operands};
use shiftformer::tensor::Dtype;
use shiftformer::{AlignedBytes, Model, Observer, Part, RunFault, Session};
use std::sync::{Arc, OnceLock};

/// The device all tests share, or `None` where `SHIFTFORMER_NO_GPU=1` says that there is none to be had.
pub fn gpu() -> Option<&'static Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    let open = || {
        if std::env::var("SHIFTFORMER_NO_GPU").is_ok_and(|v| v == "1") {
            eprintln!("skipped: SHIFTFORMER_NO_GPU=1");
            return None;
        }
        let fault = "set SHIFTFORMER_NO_GPU=1 to skip the GPU tests on a machine without an adapter";
        Some(Arc::new(Gpu::new(&Selection::Best).expect(fault)))
    };
    GPU.get_or_init(open).as_ref()
}

/// The first float in a shader as the compiler sees it: a type, a literal or a conversion.
pub fn floats(source: &str) -> Option<String> {
    use wgpu::naga::{Expression, ScalarKind, TypeInner, front::wgsl::parse_str};
    let float = |kind: ScalarKind| matches!(kind, ScalarKind::Float | ScalarKind::AbstractFloat);
    let module = parse_str(source).expect("the shader parses");
    let integers = |inner: &TypeInner| match inner {
        TypeInner::Array { .. } | TypeInner::Struct { .. } | TypeInner::Pointer { .. } => true,
        TypeInner::Atomic(scalar) => !float(scalar.kind),
        other => other.scalar().is_some_and(|scalar| !float(scalar.kind)),
    };
    let in_types = module.types.iter().find(|(_, ty)| !integers(&ty.inner)).map(|(_, ty)| format!("{ty:?}"));
    let functions = module.functions.iter().map(|(_, f)| f).chain(module.entry_points.iter().map(|e| &e.function));
    let mut expressions = functions.flat_map(|f| f.expressions.iter()).chain(module.global_expressions.iter());
    let in_expressions = || {
        expressions.find_map(|(_, e)| match e {
            Expression::Literal(literal) if float(literal.scalar().kind) => Some(format!("{literal:?}")),
            Expression::As { kind, .. } if float(*kind) => Some(format!("{e:?}")),
            _ => None,
        })
    };
    in_types.or_else(in_expressions)
}

/// A model under construction. Every tensor has memory of its own unless it is an alias.
#[derive(Default)]
pub struct TestModel {
    tensors: Vec<TensorRecord>,
    weights: Vec<u8>,
    arena: usize,
    ops: Vec<(Op, [u16; 6], u16)>,
    inputs: Vec<u16>,
    outputs: Vec<u16>,
}

impl TestModel {
    fn tensor(&mut self, dtype: Dtype, place: Place, offset: usize, shape: &[u32]) -> u16 {
        let mut dims = [1; 6];
        dims[..shape.len()].copy_from_slice(shape);
        let rank = shape.len() as u8;
        self.tensors.push(TensorRecord { dtype, place, rank, window: 0, offset: offset as u32, dims, zero_point: 0 });
        self.tensors.len() as u16 - 1
    }

    /// A tensor in the arena.
    pub fn local(&mut self, dtype: Dtype, shape: &[u32]) -> u16 {
        let index = self.tensor(dtype, Place::Arena, self.arena, shape);
        self.arena += align_up(self.tensors[usize::from(index)].bytes());
        index
    }

    /// A tensor in the memory of another.
    pub fn alias(&mut self, of: u16, dtype: Dtype, shape: &[u32]) -> u16 {
        let offset = self.tensors[usize::from(of)].offset as usize;
        self.tensor(dtype, Place::Arena, offset, shape)
    }

    /// A model input.
    pub fn input(&mut self, dtype: Dtype, shape: &[u32]) -> u16 {
        let index = self.local(dtype, shape);
        self.inputs.push(index);
        index
    }

    /// A model output.
    pub fn output(&mut self, dtype: Dtype, shape: &[u32]) -> u16 {
        let index = self.local(dtype, shape);
        self.outputs.push(index);
        index
    }

    /// A constant.
    pub fn constant(&mut self, dtype: Dtype, shape: &[u32], bytes: &[u8]) -> u16 {
        let blob = self.blob(bytes);
        self.tensor(dtype, Place::Constant, blob.offset as usize, shape)
    }

    /// Bytes in the weights.
    pub fn blob(&mut self, bytes: &[u8]) -> Blob {
        self.weights.resize(align_up(self.weights.len()), 0);
        let blob = Blob { offset: self.weights.len() as u32, bytes: bytes.len() as u32 };
        self.weights.extend_from_slice(bytes);
        blob
    }

    /// Words in the weights.
    pub fn blob_i32(&mut self, values: impl IntoIterator<Item = i32>) -> Blob {
        self.blob(&values.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>())
    }

    /// Appends an operator.
    pub fn op(&mut self, op: Op, operands: &[Option<u16>], output: u16) {
        let mut inputs = [NO_TENSOR; 6];
        for (to, from) in inputs.iter_mut().zip(operands) {
            *to = from.unwrap_or(NO_TENSOR);
        }
        self.ops.push((op, inputs, output));
    }

    /// The file, or why an operator is not admitted.
    pub fn file(&self) -> Result<File, OpFault> {
        let (mut tensors, mut ops, mut params, mut certificate) = (vec![], vec![], vec![], vec![]);
        let mut arena = self.arena;
        for record in &self.tensors {
            record.encode(&mut |word: u32| tensors.extend(word.to_le_bytes()));
        }
        for (op, inputs, output) in &self.ops {
            let first = params.len();
            op.encode(&mut |word: u32| params.extend(word.to_le_bytes()));
            let words = &params[first..];
            let scratch_bytes = align_up(op.scratch_bytes() as usize);
            let record = OpRecord {
                kind: op.kind() as u16,
                chained: false,
                by_rows: 0,
                inputs: *inputs,
                output: *output,
                scratch_offset: arena as u32,
                scratch_bytes: scratch_bytes as u32,
                params_offset: (first / 4) as u32,
                params_words: (words.len() / 4) as u16,
            };
            arena += scratch_bytes;
            let entry = OpTable::<Portable>::ALL.iter().find(|e| e.kind == op.kind()).ok_or(OpFault::Kind)?;
            let io = Operands { record, tensors: &tensors, weights: &self.weights, proven: false };
            let cert: CertRecord = entry.prove(words, &io)?.certificate()?;
            cert.write(&mut |word: u32| certificate.extend(word.to_le_bytes()));
            record.encode(&mut |word: u32| ops.extend(word.to_le_bytes()));
        }
        let ends = [self.inputs.len() as u16, self.outputs.len() as u16];
        let io = ends.iter().chain(&self.inputs).chain(&self.outputs).flat_map(|t| t.to_le_bytes()).collect();
        let sections = [
            (SectionKind::Ops, ops),
            (SectionKind::Tensors, tensors),
            (SectionKind::Params, params),
            (SectionKind::Weights, self.weights.clone()),
            (SectionKind::Io, io),
            (SectionKind::Certificate, certificate),
            (SectionKind::Receipts, vec![]),
            (SectionKind::Annotations, vec![]),
        ];
        Ok(File::assemble(&sections, arena, self.ops.len(), self.tensors.len()))
    }
}

/// Bytes of a model, aligned as the reader wants them.
pub struct File {
    bytes: AlignedBytes,
}

impl File {
    fn assemble(sections: &[(SectionKind, Vec<u8>)], arena: usize, n_ops: usize, n_tensors: usize) -> Self {
        let header_bytes = align_up(HEADER_BYTES + sections.len() * SECTION_ENTRY_BYTES);
        let mut file = vec![0u8; header_bytes];
        for (index, (kind, bytes)) in sections.iter().enumerate() {
            file.resize(align_up(file.len()), 0);
            let entry = [*kind as u32, file.len() as u32, bytes.len() as u32, 0];
            let at = HEADER_BYTES + index * SECTION_ENTRY_BYTES;
            file[at..at + SECTION_ENTRY_BYTES].copy_from_slice(bytemuck::cast_slice(&entry));
            file.extend_from_slice(bytes);
        }
        let file_bytes = file.len() as u32;
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(field::MAJOR, &VERSION_MAJOR.to_le_bytes());
        put(field::MINOR, &VERSION_MINOR.to_le_bytes());
        put(field::HEADER_BYTES, &(header_bytes as u32).to_le_bytes());
        put(field::FILE_BYTES, &file_bytes.to_le_bytes());
        put(field::ARENA_BYTES, &(arena as u32).to_le_bytes());
        put(field::N_OPS, &(n_ops as u16).to_le_bytes());
        put(field::N_TENSORS, &(n_tensors as u16).to_le_bytes());
        put(field::N_SECTIONS, &(sections.len() as u16).to_le_bytes());
        let payload = CRC.checksum(&file[header_bytes..]);
        file[field::PAYLOAD_CRC..][..4].copy_from_slice(&payload.to_le_bytes());
        let header = header_crc(&file[..header_bytes]).expect("the header is whole");
        file[field::HEADER_CRC..][..4].copy_from_slice(&header.to_le_bytes());
        Self { bytes: AlignedBytes::from(&file[..]) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps the bytes of every operator's output.
struct Outputs(Vec<Vec<u8>>);

impl Observer for Outputs {
    fn after(&mut self, op: usize, part: Part<'_>) {
        self.0.resize(self.0.len().max(op + 1), Vec::new());
        self.0[op].extend_from_slice(part.bytes);
    }
}

/// What the portable runtime leaves after every operator.
pub fn portable(model: &Model<'_>, sample: &Sample) -> Result<Vec<Vec<u8>>, RunFault> {
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(model, &mut arena).expect("the arena fits");
    for (index, bytes) in sample.iter().enumerate() {
        session.input_mut(index).expect("the input exists").copy_from_slice(bytes);
    }
    let mut outputs = Outputs(Vec::new());
    session.run_with(&mut outputs)?;
    Ok(outputs.0)
}

/// Runs `samples` on both sides and compares every operator's output.
pub fn assert_equal(test: &TestModel, samples: &[Sample]) {
    let file = test.file().expect("the operators are admitted");
    assert_file_equal(file.bytes(), samples);
}

/// [`assert_equal`] for a whole file.
pub fn assert_file_equal(file: &[u8], samples: &[Sample]) {
    let Some(gpu) = gpu() else { return };
    let model = Model::open(file).expect("the model opens");
    let mut uploaded = GpuModel::upload(gpu, &model, samples.len()).expect("the model fits the device");
    let traces = uploaded.run(samples).expect("the device runs");
    assert_eq!(traces.len(), samples.len());
    for (index, (sample, trace)) in samples.iter().zip(&traces).enumerate() {
        let expected = portable(&model, sample).expect("the runtime runs");
        for (op, expected) in expected.iter().enumerate() {
            if trace.digests[op] == shiftformer::arith::digest::digest(expected) {
                continue;
            }
            let kind = model.op_kind(op).map_or("unknown", |k| k.name());
            let actual = uploaded.op_output(sample, op).expect("the device runs");
            let at = actual.iter().zip(expected).position(|(a, b)| a != b);
            panic!("sample {index}, operator {op} ({kind}): first difference at byte {at:?}\n{actual:?}\n{expected:?}");
        }
    }
}

/// The fault both sides report for one sample.
pub fn assert_same_fault(test: &TestModel, sample: Sample) {
    let Some(gpu) = gpu() else { return };
    let file = test.file().expect("the operators are admitted");
    let model = Model::open(file.bytes()).expect("the model opens");
    let expected = portable(&model, &sample).expect_err("the runtime refuses");
    let mut uploaded = GpuModel::upload(gpu, &model, 1).expect("the model fits the device");
    match uploaded.run(&[sample]) {
        Err(GpuError::Fault { fault, .. }) => assert_eq!(fault, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

/// How test data is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Any bytes.
    Random(u64),
    /// The smallest value of the type everywhere.
    Min,
    /// The largest value of the type everywhere.
    Max,
    /// Minimum and maximum in turn.
    Alternating,
}

/// `len` elements of `dtype` as bytes.
pub fn fill(fill: Fill, dtype: Dtype, len: usize) -> Vec<u8> {
    let (min, max) = dtype.range();
    let size = dtype.bytes();
    let value = |v: i32| v.to_le_bytes()[..size].to_vec();
    match fill {
        Fill::Random(seed) => Random(seed).bytes(len * size),
        Fill::Min => value(min).repeat(len),
        Fill::Max => value(max).repeat(len),
        Fill::Alternating => (0..len).flat_map(|i| value(if i % 2 == 0 { min } else { max })).collect(),
    }
}

/// A small generator (splitmix64), so that a failing case is its seed.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A value in `low..=high`.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        (i64::from(low) + (self.next() % (i64::from(high) - i64::from(low) + 1) as u64) as i64) as i32
    }
}

/// Strategy for [`Fill`], extremes as often as random data.
pub fn any_fill() -> impl proptest::strategy::Strategy<Value = Fill> {
    use proptest::prelude::*;
    prop_oneof![
        3 => any::<u64>().prop_map(Fill::Random),
        1 => Just(Fill::Min),
        1 => Just(Fill::Max),
        1 => Just(Fill::Alternating),
    ]
}

/// Few cases per property: each one compiles nothing, but runs a device.
pub fn cases() -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: 64, failure_persistence: None, ..Default::default() }
}
