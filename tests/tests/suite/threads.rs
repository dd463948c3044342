//! One inference on several threads: the bytes of one thread, operator by operator.

use shiftformer::format::Profile;
use shiftformer::kernels::{Kernels, Native, Parallel, Portable};
use shiftformer::{AlignedBytes, Digests, Progress, Session};
use shiftformer_convert::convert::{ConvertOptions, Switch, WeightBits, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::ModelFile;
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend::{Backend, Host, Sample, Trace};
use shiftformer_lab::eval::sample_bytes;
use std::path::Path;

const SAMPLES: usize = 2;

/// The digits ViT with its first samples.
fn digits(options: ConvertOptions) -> (ModelFile, Vec<Sample>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/digits");
    let graph = fuse(import(&folder.join("digits-vit.onnx"), &ImportOptions::default()).unwrap());
    let data = Dataset::open(&folder.join("eval.npz")).unwrap();
    let values =
        |s: usize| graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name).unwrap().sample(s)).collect();
    let calibrating: Vec<_> = (0..SAMPLES).map(values).collect();
    let model = ModelFile::from_bytes(&convert(&graph, &calibrating, &options, &mut |_| ()).unwrap().file).unwrap();
    let samples = (0..SAMPLES).map(|s| sample_bytes(&model, &data, s).unwrap()).collect();
    (model, samples)
}

fn options() -> ConvertOptions {
    ConvertOptions {
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        wide_exp: Switch::Off,
        row_blocks: Switch::Off,
        receipts: 0,
        normalization: Some((0.3057, 0.376)),
        ..ConvertOptions::default()
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Runs a sample with the kernels `B`, whole or step by step.
fn run<B: Kernels>(file: &ModelFile, sample: &Sample, steps: bool) -> Trace {
    let model = file.open::<B>().unwrap();
    let mut arena = AlignedBytes::zeroed(model.arena_bytes());
    let mut session = Session::new(&model, &mut arena).unwrap();
    for (index, bytes) in sample.iter().enumerate() {
        session.input_mut(index).unwrap().copy_from_slice(bytes);
    }
    let mut digests = vec![0; model.n_ops()];
    if steps {
        while session.step().unwrap() != Progress::Done {}
    } else {
        session.run_with(&mut Digests::new(|op, digest| digests[op] = digest)).unwrap();
    }
    let outputs = (0..model.n_outputs()).map(|i| session.output(i).unwrap().to_vec()).collect();
    Trace { digests, outputs }
}

#[test]
fn several_threads_give_the_bytes_of_one() {
    let forms = [
        options(),
        ConvertOptions { wide_exp: Switch::On, ..options() },
        ConvertOptions { row_blocks: Switch::On, ..options() },
        ConvertOptions { weights: WeightBits::Four, ..options() },
        ConvertOptions { weights: WeightBits::Three, ..options() },
        ConvertOptions { weights: WeightBits::Two, ..options() },
        ConvertOptions { unfused_attention: true, ..options() },
        ConvertOptions { profile: Profile::Lut, ..options() },
        ConvertOptions { profile: Profile::Ivit, ..options() },
    ];
    for (form, options) in forms.into_iter().enumerate() {
        let (model, samples) = digits(options);
        for sample in &samples {
            let expected = run::<Portable>(&model, sample, false);
            for threads in [1, 2, 3, 8] {
                pool(threads).install(|| {
                    assert!(run::<Parallel<Portable, 1>>(&model, sample, false) == expected, "form {form}, {threads}");
                    assert!(run::<Parallel<Native, 1>>(&model, sample, false) == expected, "form {form}, {threads}");
                    let steps = run::<Parallel<Native, 1>>(&model, sample, true);
                    assert!(steps.outputs == expected.outputs, "form {form}, {threads}, in steps");
                });
            }
        }
    }
}

#[test]
fn a_backend_gives_the_same_with_more_threads_than_samples() {
    let (model, samples) = digits(options());
    let traces = [1, 2, 5].map(|threads| pool(threads).install(|| Host::<Native>::new("native", &model).run(&samples)));
    for trace in &traces {
        assert_eq!(trace.as_ref().unwrap(), traces[0].as_ref().unwrap());
    }
}
