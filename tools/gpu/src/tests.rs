//! What holds for the crate as a whole.

use crate::step::Products;
use crate::testing::{Random, TestModel, gpu};
use crate::{Gpu, GpuError, GpuModel, Route, Selection};
use shiftformer::kernels::Portable;
use shiftformer::ops::{Extent, Op, OpFault, copy::Copy, dyadic_requant::DyadicRequant, requant::Requant};
use shiftformer::tensor::Dtype;
use shiftformer::{Model, ModelError};
use std::path::Path;
use std::sync::Arc;

fn shaders(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("the sources are here").flatten() {
        let path = entry.path();
        if path.is_dir() {
            shaders(&path, found);
        } else if path.extension().is_some_and(|e| e == "wgsl") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).expect("a shader is text")));
        }
    }
}

#[test]
fn no_shader_has_a_float() {
    let mut found = Vec::new();
    shaders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20);
    for (path, text) in found {
        let code = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
        for word in code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.') {
            let literal = word.starts_with(|c: char| c.is_ascii_digit()) && (word.contains('.') || word.ends_with('f'));
            let literal = literal && !word.starts_with("0x");
            let float = matches!(word, "f32" | "f16" | "f64" | "vec2f" | "vec3f" | "vec4f") || literal;
            assert!(!float, "{path}: `{word}`");
        }
    }
}

/// Every shader that a test of this crate compiles is looked through for floats (see `Gpu::pipeline`); here the look
/// itself is tried.
#[test]
fn a_float_in_a_compiled_shader_is_found() {
    let with = |code: &str| {
        let source = format!("@compute @workgroup_size(1) fn main() {{ {code} }}");
        crate::testing::floats(&source)
    };
    assert_eq!(with("let x = 3u; let y = i32(x) * 2;"), None);
    for code in ["let x = 1.5;", "var x: f32;", "let x = f32(3u) * 2.0;", "let x = bitcast<f32>(7u);"] {
        assert!(with(code).is_some(), "{code}");
    }
}

#[test]
fn an_adapter_that_does_not_exist_is_named() {
    if gpu().is_none() {
        return;
    }
    let wanted = Selection::Name("no such adapter".into());
    assert!(matches!(Gpu::new(&wanted), Err(GpuError::UnknownAdapter(name)) if name == "no such adapter"));
    assert!(matches!(Gpu::new(&Selection::Index(1000)), Err(GpuError::UnknownAdapter(_))));
}

/// A chain: requantization to a copy that reverses.
fn chain(len: u32) -> TestModel {
    let mut test = TestModel::default();
    let x = test.input(Dtype::I8, &[len]);
    let middle = test.local(Dtype::I16, &[len]);
    let y = test.output(Dtype::I16, &[len]);
    let requant = Requant { len, zero_in: 3, acc_shift: 8, multiplier: 1 << 28, zero_out: 0 };
    test.op(Op::Requant(requant), &[Some(x)], middle);
    let dims = [1, 1, 1, 1, 1, len];
    let from = Extent { offset: len - 1, strides: [0, 0, 0, 0, 0, -1] };
    test.op(Op::Copy(Copy { dims, from, to: Extent::contiguous(dims), flip: 0, partial: false }), &[Some(middle)], y);
    test
}

#[test]
fn batches_of_any_size_give_the_same_traces() {
    let Some(gpu) = gpu() else { return };
    let file = chain(37).file().expect("the operators are admitted");
    let model = Model::open(file.bytes()).expect("the model opens");
    let samples: Vec<_> = (0..11).map(|seed| vec![Random(seed).bytes(37)]).collect();
    let run = |batch| {
        let mut uploaded = GpuModel::upload(gpu, &model, batch).expect("the model fits the device");
        uploaded.run(&samples).expect("the device runs")
    };
    let one_by_one = run(1);
    for batch in [2, 3, 5, 11, 64] {
        assert_eq!(run(batch), one_by_one, "batches of {batch}");
    }
    for (sample, trace) in samples.iter().zip(&one_by_one) {
        let expected = crate::testing::portable(&model, sample).expect("the runtime runs");
        assert_eq!(trace.outputs, [expected[1].clone()]);
    }
}

/// Products of all pairs of extreme values, in both forms the shaders have.
#[test]
fn products_are_exact_in_both_forms() {
    if gpu().is_none() {
        return;
    }
    let (summary, adapter) = Gpu::select(&Selection::Best).expect("there is an adapter");
    let extremes = [i32::MIN + 1, -65537, -65536, -65535, -1, 0, 1, 65535, 65536, 65537, 1 << 30, i32::MAX];
    let ratios: Vec<i32> = extremes.iter().flat_map(|&m| [m, 31]).collect();
    let n = extremes.len() as u32;
    let mut test = TestModel::default();
    let x = test.input(Dtype::I32, &[n, n]);
    let y = test.output(Dtype::I16, &[n, n]);
    let ratios = test.blob_i32(ratios);
    let requant = DyadicRequant { rows: n, n, ratios, identity_multiplier: 0, identity_shift: 0 };
    test.op(Op::DyadicRequant(requant), &[Some(x)], y);
    let file = test.file().expect("the operator is admitted");
    let model = Model::open(file.bytes()).expect("the model opens");
    let sample = vec![extremes.iter().flat_map(|&x| x.to_le_bytes().repeat(n as usize)).collect()];
    let expected = crate::testing::portable(&model, &sample).expect("the runtime runs");
    let forms = if summary.int64 { &[Products::Halves, Products::Native][..] } else { &[Products::Halves] };
    for &products in forms {
        let gpu = Arc::new(Gpu::open(summary.clone(), &adapter, products, Route::Packed).expect("the adapter opens"));
        let mut uploaded = GpuModel::upload(&gpu, &model, 1).expect("the model fits the device");
        assert_eq!(uploaded.op_output(&sample, 0).expect("the device runs"), expected[0], "{products:?}");
    }
}

#[test]
fn a_sample_of_the_wrong_size_is_refused() {
    let Some(gpu) = gpu() else { return };
    let file = chain(8).file().expect("the operators are admitted");
    let model = Model::open(file.bytes()).expect("the model opens");
    let mut uploaded = GpuModel::upload(gpu, &model, 4).expect("the model fits the device");
    let samples = [vec![vec![0; 8]], vec![vec![0; 7]]];
    let refused = uploaded.run(&samples);
    assert!(matches!(refused, Err(GpuError::Input { sample: 1, input: 0, needed: 8, given: 7 })), "{refused:?}");
}

#[test]
fn memory_that_nobody_wrote_is_refused_by_the_reader() {
    let mut test = TestModel::default();
    let x = test.local(Dtype::I8, &[4]);
    let y = test.output(Dtype::I8, &[4]);
    test.op(Op::Requant(Requant { len: 4, zero_in: 0, acc_shift: 0, multiplier: 1, zero_out: 0 }), &[Some(x)], y);
    let file = test.file().expect("the operators are admitted");
    let refused = Model::<Portable>::open(file.bytes()).map(|_| ());
    assert!(matches!(refused, Err(ModelError::Op { op: 0, fault: OpFault::Unwritten, .. })), "{refused:?}");
}
