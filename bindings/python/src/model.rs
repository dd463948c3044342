//! A converted model.

use crate::arrays::{Given, arrays, dataset};
use crate::convert::FloatModel;
use crate::work::{self, guarded};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::json;
use shiftformer::kernels::Portable;
use shiftformer::tensor::Dtype;
use shiftformer::text::Tokenizer;
use shiftformer_cli::{Conversion, Failure, GenerateArgs, continued, parse, relative};
use shiftformer_convert::convert::ConvertError;
use shiftformer_convert::data::Dataset;
use shiftformer_convert::model_file::{ModelFile, ModelFileError};
use shiftformer_convert::sequences::Sequences;
use shiftformer_lab::backend::{self, Sample};
use shiftformer_lab::codegen::{c_header, rust_module};
use shiftformer_lab::eval::metrics::Score;
use shiftformer_lab::eval::per_op::per_op;
use shiftformer_lab::eval::{Reference, edges, evaluate, sample_bytes, sample_values, unused};
use shiftformer_lab::fit::{BASIS, Count, demand, fit};
use shiftformer_lab::summary::{Summary, summarize};
use shiftformer_lab::{report, sequence};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Samples of the first batch of a run; later batches have as many as take about [`BATCH_TIME`].
const BATCH: usize = 64;
/// Between two looks for Ctrl-C.
const BATCH_TIME: Duration = Duration::from_millis(250);

/// A value as JSON.
///
/// # Errors
/// [`Failure::Serialize`].
pub fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value)?)
}

/// The sums of an evaluation.
///
/// # Errors
/// [`Failure::Json`].
pub fn score(sums: &str) -> Result<Score, Failure> {
    serde_json::from_str(sums).map_err(|source| Failure::Json { path: "sums".into(), source })
}

/// Name, element type as numpy has it, shape, scale, zero, whether it takes raw pixels.
type Endpoint = (String, &'static str, Vec<usize>, f64, f64, bool);

/// What a conversion leaves besides the file.
struct Origin {
    conversion: Conversion,
    notes: Vec<String>,
    text: String,
}

/// A model in memory.
#[pyclass(frozen)]
pub struct Model {
    file: Arc<ModelFile>,
    origin: Option<Arc<Origin>>,
}

fn opened(file: &ModelFile) -> Result<shiftformer::Model<'_>, Failure> {
    file.open::<Portable>().map_err(|e| Failure::Backend(e.into()))
}

fn summary(file: &ModelFile) -> Result<Summary, Failure> {
    Ok(summarize(&opened(file)?, file.annotations()))
}

fn numpy_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::I8 => "int8",
        Dtype::U8 => "uint8",
        Dtype::I16 => "int16",
        Dtype::U16 => "uint16",
        Dtype::I32 => "int32",
    }
}

impl Model {
    /// An input or output as Python sees it.
    fn endpoint(&self, of: &shiftformer_convert::program::Endpoint, dtype: Dtype) -> Endpoint {
        let (scale, zero) = self.file.units(of.tensor);
        (of.name.clone(), numpy_name(dtype), of.shape.clone(), scale, zero, of.normalization.is_some())
    }

    /// Of a conversion.
    ///
    /// # Errors
    /// [`Failure`] when the file does not open.
    pub fn converted(conversion: Conversion, notes: Vec<String>, text: String) -> Result<Self, Failure> {
        let file = ModelFile::from_bytes(&conversion.bytes).map_err(ConvertError::from)?;
        Ok(Self { file: Arc::new(file), origin: Some(Arc::new(Origin { conversion, notes, text })) })
    }
}

/// Where the samples of an evaluation are.
enum Data {
    File(PathBuf),
    Arrays(Dataset),
}

impl Data {
    fn of(path: Option<PathBuf>, samples: Option<&[Given<'_>]>) -> Result<Self, Failure> {
        match (path, samples) {
            (Some(path), _) => Ok(Self::File(path)),
            (None, Some(samples)) => Ok(Self::Arrays(dataset(samples, "data")?)),
            (None, None) => Err(Failure::Usage("no data given; pass arrays or the path of an npz file".to_owned())),
        }
    }

    fn open(self) -> Result<Dataset, Failure> {
        match self {
            Self::File(path) => Ok(Dataset::open(&path).map_err(shiftformer_lab::eval::EvalError::from)?),
            Self::Arrays(data) => Ok(data),
        }
    }
}

#[pymethods]
impl Model {
    /// Checks a model in memory.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, bytes: Bound<'_, PyBytes>, name: PathBuf) -> PyResult<Self> {
        let bytes = bytes.as_bytes();
        let file = work::run(py, None, None, |_| {
            ModelFile::from_bytes(bytes).map_err(|source| Failure::Model { path: name, source })
        })?;
        Ok(Self { file: Arc::new(file), origin: None })
    }

    /// Reads and checks a file.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let file = work::run(py, None, None, |_| {
            ModelFile::read(&path).map_err(|source| match source {
                ModelFileError::Read { source, .. } => Failure::Read { path: path.clone(), source },
                source => Failure::Model { path: path.clone(), source },
            })
        })?;
        Ok(Self { file: Arc::new(file), origin: None })
    }

    /// The file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.file.bytes())
    }

    /// The inputs.
    fn inputs(&self) -> Vec<Endpoint> {
        let inputs = self.file.inputs().iter().enumerate();
        inputs.filter_map(|(index, input)| Some(self.endpoint(input, self.file.input_dtype(index)?))).collect()
    }

    /// The outputs.
    fn outputs(&self) -> Vec<Endpoint> {
        let outputs = self.file.outputs().iter().enumerate();
        outputs.filter_map(|(index, output)| Some(self.endpoint(output, self.file.output_dtype(index)?))).collect()
    }

    /// Whether it keeps keys and values from one run to the next.
    fn is_decoder(&self) -> bool {
        sequence::shape(&self.file).is_ok()
    }

    /// Names of the classes of output `output`, as far as there are any.
    fn labels(&self, output: usize) -> Vec<String> {
        (0..).map_while(|class| self.file.label(output, class)).collect()
    }

    /// What `inspect --json` prints.
    fn summary(&self) -> PyResult<String> {
        guarded(|| json(&summary(&self.file)?))
    }

    /// What the command prints of the conversion; `None` for a model that was read.
    fn conversion_text(&self) -> Option<String> {
        self.origin.as_ref().map(|origin| origin.text.clone())
    }

    /// The figures of the conversion, its warnings and its notes; `None` for a model that was read.
    fn conversion(&self) -> PyResult<Option<String>> {
        let Some(origin) = &self.origin else { return Ok(None) };
        let Conversion { converted, samples, .. } = &origin.conversion;
        guarded(|| {
            Ok(Some(json(&json!({
                "calibration_samples": samples.len(),
                "sqnr_db": converted.sqnr_db,
                "outputs": converted.outputs,
                "trials": converted.trials,
                "bits_curve": converted.curve,
                "warnings": converted.warnings,
                "notes": origin.notes,
            }))?))
        })
    }

    /// Runs the samples; the bytes of every output for all samples in a row.
    ///
    /// `samples` are arrays `in_*` of values or, with `raw_inputs`, of the bytes of the inputs (kind `u1`). The outputs are
    /// `f4` unless `raw_outputs`.
    #[pyo3(signature = (samples, *, raw_inputs, raw_outputs, backend, threads=None, progress=None))]
    #[expect(clippy::too_many_arguments)]
    fn run<'py>(
        &self,
        py: Python<'py>,
        samples: Vec<Given<'py>>,
        raw_inputs: bool,
        raw_outputs: bool,
        backend: &str,
        threads: Option<usize>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let data = guarded(|| dataset(&samples, "inputs"))?;
        let file = &*self.file;
        let outputs = work::run(py, threads, progress, |report| {
            let mut outputs = vec![Vec::new(); file.outputs().len()];
            let mut backend = backend::open(backend, file)?;
            let (mut at, mut batch, total) = (0, BATCH, data.samples());
            while at < total {
                let start = Instant::now();
                let end = total.min(at + batch);
                let sample =
                    |index| if raw_inputs { raw_sample(file, &data, index) } else { encoded(file, &data, index) };
                let samples = (at..end).map(sample).collect::<Result<Vec<_>, _>>()?;
                for trace in backend.run(&samples)? {
                    for (index, (all, bytes)) in outputs.iter_mut().zip(&trace.outputs).enumerate() {
                        if raw_outputs {
                            all.extend_from_slice(bytes);
                        } else {
                            all.extend(file.decode(index, bytes).into_iter().flat_map(f32::to_le_bytes));
                        }
                    }
                }
                at = end;
                report.done(at, total);
                if start.elapsed() < BATCH_TIME / 2 {
                    batch *= 2;
                } else if start.elapsed() > BATCH_TIME * 2 {
                    batch = (batch / 2).max(work::threads());
                }
            }
            Ok(outputs)
        })?;
        Ok(outputs.into_iter().map(|bytes| PyBytes::new(py, &bytes)).collect())
    }

    /// Evaluates the samples from `start` to `end`, the end of the data by default; JSON of the sums.
    #[pyo3(signature = (*, path=None, samples=None, float_model=None, start=0, end=None, backend, threads=None, progress=None))]
    #[expect(clippy::too_many_arguments)]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        path: Option<PathBuf>,
        samples: Option<Vec<Given<'py>>>,
        float_model: Option<&FloatModel>,
        start: usize,
        end: Option<usize>,
        backend: &str,
        threads: Option<usize>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<String> {
        let data = guarded(|| Data::of(path, samples.as_deref()))?;
        let graph = float_model.map(|model| Arc::clone(&model.graph));
        let file = &*self.file;
        work::run(py, threads, progress, |report| {
            let data = data.open()?;
            let reference = graph.as_deref().map_or(Reference::Stored, Reference::Graph);
            let all: Vec<usize> = (start..data.samples().min(end.unwrap_or(usize::MAX))).collect();
            let mut backend = backend::open(backend, file)?;
            let mut done = 0;
            let count = |more| {
                done += more;
                report.done(done, all.len());
            };
            let sums = evaluate(file, &data, &reference, &all, backend.as_mut(), count)?;
            let mut warnings = unused(file, &data, &reference);
            if let Some(&first) = all.first() {
                warnings.extend(raw_bytes(file, &data, first)?);
            }
            json(&json!({ "sums": sums, "warnings": warnings, "data_samples": data.samples() }))
        })
    }

    /// Warnings that follow from the sums of an evaluation, as JSON.
    fn edges(&self, sums: &str) -> PyResult<Vec<String>> {
        guarded(|| Ok(edges(&self.file, &score(sums)?)))
    }

    /// Evaluates a decoder on sequences: a file, or arrays `ids` and `logits`; JSON of the figures.
    #[pyo3(signature = (*, path=None, samples=None, limit=None, backend, threads=None, progress=None))]
    #[expect(clippy::too_many_arguments)]
    fn evaluate_sequences<'py>(
        &self,
        py: Python<'py>,
        path: Option<PathBuf>,
        samples: Option<Vec<Given<'py>>>,
        limit: Option<usize>,
        backend: &str,
        threads: Option<usize>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<String> {
        let file = &*self.file;
        let given =
            samples.as_deref().map(|samples| guarded(|| Ok(Sequences::from_arrays(&arrays(samples)?, "data")?)));
        let given = given.transpose()?;
        work::run(py, threads, progress, |report| {
            let context = sequence::shape(file)?.context;
            let model = opened(file)?;
            let tokenizer = Tokenizer::open(model.sections()).map_err(|error| Failure::Usage(error.to_string()))?;
            let sequences = match (given, path) {
                (Some(given), _) => given,
                (None, Some(path)) => Sequences::open_with(&path, tokenizer.as_ref(), context)?,
                (None, None) => return Err(Failure::Usage("no data given; pass ids or the path of a file".to_owned())),
            };
            let total = sequences.ids.len().min(limit.unwrap_or(usize::MAX));
            let mut done = 0;
            let count = || {
                done += 1;
                report.done(done, total);
            };
            json(&sequence::evaluate(file, backend, &sequences, limit, count)?)
        })
    }

    /// Every operator beside the float model, as JSON: on the samples of the conversion, or others.
    #[pyo3(signature = (*, path=None, samples=None, float_model=None, limit, threads=None, progress=None))]
    #[expect(clippy::too_many_arguments)]
    fn per_op<'py>(
        &self,
        py: Python<'py>,
        path: Option<PathBuf>,
        samples: Option<Vec<Given<'py>>>,
        float_model: Option<&FloatModel>,
        limit: usize,
        threads: Option<usize>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<String> {
        let other = path.is_some() || samples.is_some();
        let data = other.then(|| guarded(|| Data::of(path, samples.as_deref()))).transpose()?;
        let graph = float_model.map(|model| Arc::clone(&model.graph));
        let (file, origin) = (&*self.file, self.origin.as_deref());
        work::run(py, threads, progress, |report| {
            report.step("comparing operators");
            let missing = |what: &str| {
                Failure::Usage(format!("a model that was read from a file has no {what} of its own; pass {what}="))
            };
            let own = origin.map(|origin| &origin.conversion);
            let graph = graph.as_deref().or(own.map(|own| &own.graph)).ok_or_else(|| missing("reference"))?;
            let values = match data {
                Some(data) => {
                    let data = data.open()?;
                    let few = 0..data.samples().min(limit);
                    few.map(|sample| sample_values(file, &data, sample)).collect::<Result<Vec<_>, _>>()?
                }
                None => own.ok_or_else(|| missing("data"))?.samples.iter().take(limit).cloned().collect(),
            };
            json(&per_op(file, graph, &values)?)
        })
    }

    /// The report of the conversion, or what can be said of a model that was read.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let (file, origin) = (&*self.file, self.origin.as_deref());
        work::run(py, None, None, |_| match origin {
            Some(origin) => origin.conversion.report(),
            None => Ok(report::html(&report::Content::of_file(file)?)),
        })
    }

    /// The table of boards, as JSON; with `count`, instructions are counted in the emulator.
    #[pyo3(signature = (board, count))]
    fn fit(&self, py: Python<'_>, board: Option<&str>, count: bool) -> PyResult<String> {
        let file = &*self.file;
        work::run(py, None, None, |report| {
            let model = opened(file)?;
            let mut demand = demand(&model);
            let boards = fit(&demand, board);
            if boards.is_empty() {
                return Err(shiftformer_cli::unknown_board(board.unwrap_or_default()));
            }
            if count {
                for core in shiftformer_cli::cores(&boards) {
                    let Some(machine) = shiftformer_link::Machine::counting(core) else { continue };
                    let name = format!("qemu:{}", machine.name);
                    report.step(&format!("counting on {name}"));
                    let sample = shiftformer_cli::stand_in(file)?;
                    if let Some(counts) = backend::open(&name, file)?.counts(&sample)? {
                        let count = Count { instructions: counts.total as f64, counted: true };
                        demand.instructions.insert(core, count);
                    }
                }
            }
            let boards = fit(&demand, board);
            json(&json!({
                "flash_bytes": demand.flash_bytes,
                "ram_bytes": demand.ram_bytes,
                "basis": BASIS,
                "boards": boards.iter().map(|line| {
                    let mut fields = serde_json::to_value(line)?;
                    fields["core"] = line.board.core.name().into();
                    fields["verdict"] = line.verdict().into();
                    Ok(fields)
                }).collect::<Result<Vec<_>, serde_json::Error>>()?,
            }))
        })
    }

    /// A Rust module or a C header for the model at `path`, as the command writes them into `folder`.
    #[pyo3(signature = (lang, path, folder, include))]
    fn codegen(&self, lang: &str, path: PathBuf, folder: PathBuf, include: Option<String>) -> PyResult<String> {
        guarded(|| {
            let text =
                |part: Option<&std::ffi::OsStr>| part.map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let (model, summary) = (opened(&self.file)?, summary(&self.file)?);
            let (name, stem) = (text(path.file_name()), text(path.file_stem()));
            match lang {
                "rust" => {
                    let include = include.unwrap_or_else(|| relative(&path, Path::new(&folder)));
                    Ok(rust_module(&model, &summary, &name, &include))
                }
                "c" => Ok(c_header(&model, &summary, &stem, &name)),
                other => Err(Failure::Usage(format!("lang={other:?} is not known; use \"rust\" or \"c\""))),
            }
        })
    }

    /// Continues a prompt; `arguments` are those of the command. JSON.
    #[pyo3(signature = (arguments, progress=None))]
    fn generate(
        &self,
        py: Python<'_>,
        arguments: Vec<OsString>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let args = guarded(|| parse::<GenerateArgs>(&arguments))?;
        let file = &*self.file;
        work::run(py, None, progress, |report| json(&continued(&args, file, &mut |part| report.step(part))?))
    }
}

fn encoded(file: &ModelFile, data: &Dataset, index: usize) -> Result<Sample, Failure> {
    Ok(sample_bytes(file, data, index)?)
}

/// The bytes of every input as they are given.
fn raw_sample(file: &ModelFile, data: &Dataset, index: usize) -> Result<Sample, Failure> {
    let values = sample_values(file, data, index)?;
    let bytes = |values| match values {
        shiftformer_convert::model_file::Values::U8(bytes) => Ok(bytes),
        _ => Err(Failure::Usage("raw inputs are bytes".to_owned())),
    };
    values.into_iter().map(bytes).collect()
}

/// The warning of `eval` where an input clips raw pixels.
fn raw_bytes(file: &ModelFile, data: &Dataset, first: usize) -> Result<Vec<String>, Failure> {
    let values = sample_values(file, data, first)?;
    Ok(shiftformer_cli::clipped_bytes(file, &values))
}
