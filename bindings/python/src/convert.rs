//! Conversions, and float models to compare with.

use crate::arrays::{Given, arrays, dataset};
use crate::errors::exception;
use crate::model::Model;
use crate::work::{self, guarded};
use pyo3::prelude::*;
use shiftformer_cli::{Calibration, ConvertArgs, Failure, Loaded, calibration, convert_prepared, load, parse, prepare};
use shiftformer_convert::graph::{DataType, Graph};
use shiftformer_convert::sequences::Sequences;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A model that was read for a conversion. The samples come once the inputs are known.
#[pyclass(frozen)]
pub struct Converter {
    args: ConvertArgs,
    loaded: Mutex<Option<Loaded>>,
    inputs: Vec<(String, Vec<usize>, bool)>,
}

fn inputs(graph: &Graph) -> Vec<(String, Vec<usize>, bool)> {
    let input = |&id: &usize| {
        let tensor = &graph.tensors[id];
        (tensor.name.clone(), tensor.shape.clone(), tensor.dtype == DataType::Float)
    };
    graph.inputs.iter().map(input).collect()
}

#[pymethods]
impl Converter {
    /// Reads the model in `arguments`, which are those of the command.
    #[staticmethod]
    #[pyo3(signature = (arguments, progress=None))]
    fn load(py: Python<'_>, arguments: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let args = guarded(|| parse::<ConvertArgs>(&arguments))?;
        let loaded = work::run(py, None, progress, |report| {
            report.step("reading the model");
            load(&args)
        })?;
        let inputs = inputs(loaded.graph());
        Ok(Self { args, loaded: Mutex::new(Some(loaded)), inputs })
    }

    /// Name, shape and whether it takes floats, of every input.
    fn inputs(&self) -> Vec<(String, Vec<usize>, bool)> {
        self.inputs.clone()
    }

    /// Converts, on `samples`, which are arrays `in_*` or, with `sequences`, `ids` and `logits`; or on the file at `path`.
    #[pyo3(signature = (*, path=None, samples=None, sequences=false, threads=None, progress=None))]
    fn convert(
        &self,
        py: Python<'_>,
        path: Option<PathBuf>,
        samples: Option<Vec<Given<'_>>>,
        sequences: bool,
        threads: Option<usize>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Model> {
        const ORIGIN: &str = "calib";
        let given = match &samples {
            None => None,
            Some(samples) if sequences => Some(guarded(|| {
                let sequences = Sequences::from_arrays(&arrays(samples)?, ORIGIN)?;
                Ok(Calibration::Sequences { sequences, origin: ORIGIN.to_owned() })
            })?),
            Some(samples) => Some(guarded(|| Ok(Calibration::Samples(dataset(samples, ORIGIN)?)))?),
        };
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        let once = || Failure::Usage("this converter was used already; load the model again".to_owned());
        let loaded = loaded.ok_or_else(|| exception(&once()))?;
        let args = &self.args;
        let (conversion, notes, text) = work::run(py, threads, progress, move |report| {
            report.step("reading the samples");
            let calib = path.map(|path| calibration(args, &loaded, &path)).transpose()?.or(given);
            let prepared = prepare(args, loaded, calib)?;
            let notes = prepared.notes().to_vec();
            let conversion = convert_prepared(args, prepared, &mut |what| report.step(what))?;
            let text = conversion.text(args);
            Ok((conversion, notes, text))
        })?;
        guarded(|| Model::converted(conversion, notes, text))
    }
}

/// A float model to compare with.
#[pyclass(frozen)]
pub struct FloatModel {
    pub graph: Arc<Graph>,
}

#[pymethods]
impl FloatModel {
    /// Reads the ONNX model at `path`; `dims` are `NAME=VALUE`.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, dims: Vec<String>) -> PyResult<Self> {
        let graph = work::run(py, None, None, |_| shiftformer_cli::float_graph(&path, &dims))?;
        Ok(Self { graph: Arc::new(graph) })
    }

    /// As of a [`Converter`].
    fn inputs(&self) -> Vec<(String, Vec<usize>, bool)> {
        inputs(&self.graph)
    }
}
