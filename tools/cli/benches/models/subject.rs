//! What is measured: a model with data, converted here.

use shiftformer_convert::convert::{ConvertOptions, Switch, convert};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use std::path::{Path, PathBuf};

/// Samples for calibration: they decide about accuracy, not about time.
const SAMPLES: usize = 8;

/// A model in both forms, with one sample.
pub struct Subject {
    pub name: &'static str,
    pub onnx: PathBuf,
    /// Dimensions of the input.
    pub shape: Vec<usize>,
    /// The sample in real units.
    pub real: Vec<f32>,
    pub file: ModelFile,
    /// The sample as bytes of the input.
    pub bytes: Vec<u8>,
}

struct Source {
    name: &'static str,
    onnx: &'static str,
    data: &'static str,
    normalization: Option<(f64, f64)>,
}

const SHARED: [Source; 2] = [
    Source {
        name: "deit-tiny 224x224",
        onnx: "models/deit-tiny/deit-tiny-random.onnx",
        data: "models/deit-tiny/eval.npz",
        normalization: None,
    },
    Source {
        name: "mnist-vit",
        onnx: "models/mnist-vit/mnist-vit.onnx",
        data: "models/mnist-vit/eval.npz",
        normalization: Some((0.1307, 0.3081)),
    },
];

const BUNDLED: Source = Source {
    name: "digits-vit",
    onnx: "models/digits/digits-vit.onnx",
    data: "models/digits/eval.npz",
    normalization: Some((0.3057, 0.376)),
};

/// The public models, or the bundled one where they are missing.
pub fn all() -> Vec<Subject> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("SHIFTFORMER_SHARED").map(PathBuf::from).unwrap_or_default();
    let (here, missing): (Vec<&Source>, Vec<&Source>) =
        SHARED.iter().partition(|source| shared.join(source.onnx).is_file() && shared.join(source.data).is_file());
    for source in missing {
        eprintln!("SKIPPED: {} is not here; set SHIFTFORMER_SHARED", shared.join(source.onnx).display());
    }
    if here.is_empty() {
        eprintln!("measuring the bundled digits model instead");
        return vec![BUNDLED.open(&root)];
    }
    here.into_iter().map(|source| source.open(&shared)).collect()
}

impl Source {
    /// Converts the model below `folder`.
    fn open(&self, folder: &Path) -> Subject {
        let onnx = folder.join(self.onnx);
        let graph = import(&onnx, &ImportOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", onnx.display()));
        let data = Dataset::open(&folder.join(self.data)).unwrap_or_else(|e| panic!("{}: {e}", self.data));
        let graph = fuse(graph);
        let input = &graph.tensors[graph.inputs[0]];
        let array = data.input(&input.name).unwrap_or_else(|| panic!("{} lacks input {}", self.data, input.name));
        let shape = input.shape.clone();
        let samples: Vec<Vec<Values>> = (0..SAMPLES.min(data.samples())).map(|s| vec![array.sample(s)]).collect();
        // No search: what it chooses between takes the same time.
        let options = ConvertOptions {
            normalization: self.normalization,
            range: RangeMethod::Minmax,
            equalize: Switch::Off,
            wide_exp: Switch::Off,
            // Memory is plentiful here.
            row_blocks: Switch::Off,
            ..ConvertOptions::default()
        };
        let converted =
            convert(&graph, &samples, &options, &mut |_| {}).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let file = ModelFile::from_bytes(&converted.file).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let bytes = file.encode(0, &samples[0][0]).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        Subject { name: self.name, onnx, shape, real: samples[0][0].to_real(self.normalization), file, bytes }
    }
}
