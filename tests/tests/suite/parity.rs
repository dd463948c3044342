//! A deliberately broken kernel is found and named, on the CPU and on a GPU, with what both sides hold before they
//! requantize, and again with the saved reproducer.

use shiftformer::arith::exp::RowScale;
use shiftformer::format::Profile;
use shiftformer::kernels::{DotJob, ExpRow, Kernels, LinearJob, LinearOut, NormJob, NormOut, NormRow, Portable};
use shiftformer_convert::convert::{ConvertOptions, Switch, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_gpu::{Damage, Selection};
use shiftformer_lab::backend::{Backend, BackendError, Gpu, Host, Sample};
use shiftformer_lab::eval::sample_bytes;
use shiftformer_lab::parity::{BackendRun, Difference, Reproducer, compare};
use std::path::Path;
use std::sync::Arc;

const SAMPLES: usize = 4;

/// The digits ViT with its first samples.
fn digits(profile: Profile, unfused_attention: bool) -> (ModelFile, Vec<Sample>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits");
    let graph = fuse(import(&folder.join("digits-vit.onnx"), &ImportOptions::default()).unwrap());
    let data = Dataset::open(&folder.join("eval.npz")).unwrap();
    let values = |sample: usize| -> Vec<Values> {
        graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name).unwrap().sample(sample)).collect()
    };
    let calibrating: Vec<_> = (0..SAMPLES).map(values).collect();
    let options = ConvertOptions {
        profile,
        unfused_attention,
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        wide_exp: Switch::Off,
        receipts: 0,
        normalization: Some((0.3057, 0.376)),
        ..ConvertOptions::default()
    };
    let model = ModelFile::from_bytes(&convert(&graph, &calibrating, &options, &mut |_| ()).unwrap().file).unwrap();
    let samples = (0..SAMPLES).map(|i| sample_bytes(&model, &data, i).unwrap()).collect();
    (model, samples)
}

fn host<B: Kernels + Sync + Send>(name: &'static str, model: &ModelFile) -> BackendRun {
    BackendRun::new(name, model, move |model| Ok(Box::new(Host::<B>::new(name, model)) as Box<dyn Backend>))
}

fn only_difference(model: &ModelFile, contestants: &[BackendRun], samples: &[Sample]) -> Difference {
    let mut comparison = compare(model, contestants, samples, |_| ()).unwrap();
    assert!(!comparison.equal);
    assert_eq!(comparison.differences.len(), 1);
    comparison.differences.remove(0)
}

/// The difference between `reference` and `broken`, which the saved reproducer shows again.
fn difference(model: &ModelFile, samples: &[Sample], make: &dyn Fn(&ModelFile) -> [BackendRun; 2]) -> Difference {
    let contestants = make(model);
    let found = only_difference(model, &contestants, samples);
    assert!(found.name.starts_with('/'), "{}", found.name);
    let saved = Reproducer::of(model, &contestants[0], &found, &samples[found.sample]).unwrap().unwrap();
    let small = ModelFile::from_bytes(&saved.model).unwrap();
    let data = Dataset::from_bytes(saved.data, "reproducer").unwrap();
    let again = only_difference(&small, &make(&small), &[sample_bytes(&small, &data, 0).unwrap()]);
    assert_eq!((again.op, again.kind, again.element), (0, found.kind, found.element));
    assert_eq!((again.reference_value, again.value), (found.reference_value, found.value));
    assert_eq!((again.reference_accumulator, again.accumulator), (found.reference_accumulator, found.accumulator));
    found
}

/// One more in the first sum of every layer.
struct WrongSum;
impl Kernels for WrongSum {
    const NAME: &'static str = "wrong sum";
    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        let mut bias = job.bias.to_vec();
        bias[0] += 1 << 14;
        Portable::linear(&LinearJob { bias: &bias, ..*job }, x, out, scratch);
    }
}

/// One more in the first product of every attention.
struct WrongDot;
impl Kernels for WrongDot {
    const NAME: &'static str = "wrong dot product";
    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        Portable::dot_i8(job, x, y, out, scratch);
        out[0] += 1000;
    }
}

/// A sixteenth less in the first exponential of every row.
struct WrongExponential;
impl Kernels for WrongExponential {
    const NAME: &'static str = "wrong exponential";
    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        match out {
            ExpRow::U8(out) => {
                let sum = Portable::exp_row(scores, ExpRow::U8(out));
                out[0] -= out[0] / 16;
                sum
            }
            ExpRow::U16(out) => Portable::exp_row(scores, ExpRow::U16(out)),
        }
    }
}

/// One more in the first element behind the division.
struct WrongDivision;
impl Kernels for WrongDivision {
    const NAME: &'static str = "wrong division";
    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        Portable::scale_row(acc, scale, zero_point, out);
        out[0] ^= 1;
    }
}

/// The wrong normalization: that of an RMSNorm.
struct WrongNorm;
impl Kernels for WrongNorm {
    const NAME: &'static str = "wrong norm";
    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        Portable::norm_row(&NormJob { rms: true, ..*job }, x, out);
    }
}

fn broken<B: Kernels + Sync + Send>(profile: Profile, unfused: bool) -> Difference {
    let (model, samples) = digits(profile, unfused);
    difference(&model, &samples, &|m| [host::<Portable>("portable", m), host::<B>("broken", m)])
}

#[test]
fn broken_kernels_are_named_on_the_cpu() {
    let sum = broken::<WrongSum>(Profile::Shift, false);
    assert_eq!((sum.kind, sum.accumulator_is), ("conv2d", Some("sum")));
    assert_eq!(sum.accumulator.unwrap() - sum.reference_accumulator.unwrap(), 1 << 14);
    let division = broken::<WrongDivision>(Profile::Shift, false);
    assert_eq!((division.kind, division.accumulator_is), ("attention", Some("weighted mean x 16")));
    assert_eq!(broken::<WrongExponential>(Profile::Shift, false).kind, "attention");
    let norm = broken::<WrongNorm>(Profile::Shift, false);
    assert_eq!((norm.kind, norm.accumulator_is), ("layer_norm", Some("normalized value x 2^15")));
    assert_ne!(norm.accumulator, norm.reference_accumulator);
    let dot = broken::<WrongDot>(Profile::Shift, true);
    assert_eq!((dot.kind, dot.accumulator_is), ("attention_scores", Some("sum")));
    assert_eq!(dot.accumulator.unwrap() - dot.reference_accumulator.unwrap(), 1000);
    let product = broken::<WrongDot>(Profile::Ivit, false);
    assert_eq!((product.kind, product.accumulator_is), ("matmul", Some("sum")));
    assert_eq!(product.accumulator.unwrap() - product.reference_accumulator.unwrap(), 1000);
}

/// The difference a damaged shader makes.
fn damaged(profile: Profile, damage: Damage) -> Difference {
    let (model, samples) = digits(profile, false);
    let device = Arc::new(shiftformer_gpu::Gpu::damaged(&Selection::Best, damage).unwrap());
    let gpu = |model: &ModelFile| {
        let device = device.clone();
        BackendRun::new("gpu", model, move |model| {
            Ok::<_, BackendError>(Box::new(Gpu::on(device.clone(), "gpu", model)) as Box<dyn Backend>)
        })
    };
    difference(&model, &samples, &|m| [host::<Portable>("portable", m), gpu(m)])
}

#[test]
fn broken_shaders_are_named_on_a_gpu() {
    if std::env::var("SHIFTFORMER_NO_GPU").is_ok_and(|v| v == "1") {
        eprintln!("SKIPPED: SHIFTFORMER_NO_GPU=1");
        return;
    }
    let sum = damaged(
        Profile::Shift,
        Damage {
            shader: "linear tile",
            from: "write_row(row, channel, acc0 + bias,",
            to: "write_row(row, channel, acc0,",
        },
    );
    assert_eq!((sum.kind, sum.accumulator_is), ("conv2d", Some("sum")));
    assert_ne!(sum.accumulator, sum.reference_accumulator);
    let exponential = damaged(
        Profile::Shift,
        Damage { shader: "attention block", from: "(exp_u16(distance) + 64u) >> 7u", to: "exp_u16(distance) >> 7u" },
    );
    assert_eq!((exponential.kind, exponential.accumulator_is), ("attention", Some("weighted mean x 16")));
    let norm = damaged(Profile::Shift, Damage { shader: "layer_norm", from: "step < 4u", to: "step < 2u" });
    assert_eq!((norm.kind, norm.accumulator_is), ("layer_norm", Some("normalized value x 2^15")));
    assert_ne!(norm.accumulator, norm.reference_accumulator);
    let rounding = damaged(
        Profile::Ivit,
        Damage { shader: "dyadic_requant", from: "half == 1u && (below", to: "half == 1u || (below" },
    );
    assert_eq!((rounding.kind, rounding.accumulator_is), ("dyadic_requant", Some("rounded sum")));
    assert_ne!(rounding.accumulator, rounding.reference_accumulator);
}
