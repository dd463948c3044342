//! Language models: inputs that say where a run stands become constants, caches leave the interface.
//!
//! A decoder is read as the function of a whole sequence: ids in, logits out. Whatever an exporter adds for single
//! steps follows from the position: masks are all ones, positions ascend, past keys and values are empty, and what
//! would be kept for the next step is dropped. The cached form is derived anew from the attention that is left.
//!
//! Where a model has a cache, [`Cache::is_sound`] runs the float model both ways, whole and step by step through the
//! declared pairs: pairs that do not belong together show.

use super::onnx::tensor_shape_proto::{Dimension, dimension::Value};
use super::onnx::type_proto::{self, Tensor};
use super::onnx::{GraphProto, ModelProto, TensorProto, TensorShapeProto, ValueInfoProto};
use super::tensor::{Elem, data_type, elem_of};
use super::{ImportError, ImportOptions, defaults, isolate, parse, read_model, walk};
use crate::graph::exec;
use crate::graph::{Data, DataType, Graph, TensorId};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Largest distance of logits computed both ways, relative to the largest logit.
const SAME_LOGITS: f32 = 1e-3;
/// Positions of the two runs that are compared: a prompt and one step behind it.
const PROMPT: usize = 2;
/// Fewest positions of a sequence from which its axis can be told.
pub const MIN_POSITIONS: usize = 2;

/// What an input of the model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The tokens.
    Ids,
    /// Which keys exist: all of them.
    Mask,
    /// Positions of the rows.
    Positions,
    /// The number of keys there are.
    Total,
    /// The index of the last key.
    Last,
    /// Where new keys go: behind the past.
    Past,
    /// Keys or values of earlier positions.
    Cache,
}

/// A model with its inputs and outputs sorted.
struct Decoder {
    model: ModelProto,
    roles: Vec<(ValueInfoProto, Role)>,
    /// Outputs that hold keys or values for the next run, by the input they belong to.
    present: Vec<(String, String)>,
    /// Rows of a run, where the file fixes them.
    fixed_rows: Option<usize>,
}

/// The sizes of one import.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    past: usize,
    /// Caches stay inputs and outputs.
    cached: bool,
}

/// A decoder as a function of a whole sequence.
#[derive(Debug)]
pub struct Sequence {
    /// `ids [1, positions]` to logits, every shape known.
    pub graph: Graph,
    /// Positions of the graph: the context, or more where the file fixes them.
    pub positions: usize,
}

/// Whether the model at `path` keeps keys and values between runs.
///
/// # Errors
/// [`ImportError`] when the file is no model.
pub fn has_cache(path: &Path) -> Result<bool, ImportError> {
    let bytes = read_model(path)?;
    isolate::run(|| {
        let model = parse(&bytes)?;
        let graph = model.graph.unwrap_or_default();
        Ok(free_inputs(&graph).iter().any(|input| pair_key(&input.name, PAST).is_some() && rank(input) >= 4))
    })
    .unwrap_or_else(|message| Err(ImportError::Internal(message)))
}

/// Reads the decoder at `path` as a function of `context` positions.
///
/// # Errors
/// [`ImportError`]; [`ImportError::Decoder`] where its interface is not that of a decoder.
pub fn import_decoder(path: &Path, context: usize) -> Result<Sequence, ImportError> {
    let bytes = read_model(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    import_decoder_bytes(&bytes, Some(folder), context)
}

/// [`import_decoder`] from memory; external data lies in `folder`, or is refused.
///
/// # Errors
/// As [`import_decoder`].
pub fn import_decoder_bytes(bytes: &[u8], folder: Option<&Path>, context: usize) -> Result<Sequence, ImportError> {
    let run = || {
        if context == 0 {
            return fail("--context 0 leaves no position; give the number of positions, e.g. --context 128");
        }
        let decoder = Decoder::of(parse(bytes)?)?;
        let import = |sizes| decoder.import(bytes, folder, sizes);
        let rows = decoder.rows(context)?;
        decoder.check_buffers(rows)?;
        let whole = Sizes { rows, past: 0, cached: false };
        let graph = import(whole).map_err(|error| decoder.beyond(error, rows, &import))?;
        if decoder.roles.iter().any(|(_, role)| *role == Role::Cache) && decoder.fixed_rows.is_none() {
            decoder.check_pairs(&import)?;
        }
        Ok(Sequence { graph, positions: rows })
    };
    isolate::run(run).unwrap_or_else(|message| Err(ImportError::Internal(message)))
}

fn fail<T>(message: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Decoder(message.into()))
}

fn free_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let stored: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(|v| !stored.contains(v.name.as_str())).collect()
}

fn declared(value: &ValueInfoProto) -> Option<&Tensor> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

fn rank(value: &ValueInfoProto) -> usize {
    declared(value).and_then(|tensor| tensor.shape.as_ref()).map_or(0, |shape| shape.dim.len())
}

/// The fixed sizes of a value; `None` for symbolic ones.
fn fixed_dims(value: &ValueInfoProto) -> Vec<Option<usize>> {
    let shape = declared(value).and_then(|tensor| tensor.shape.as_ref());
    let fixed = |dim: &Dimension| match dim.value {
        Some(Value::DimValue(size)) if size > 0 => usize::try_from(size).ok(),
        _ => None,
    };
    shape.map_or_else(Vec::new, |shape| shape.dim.iter().map(fixed).collect())
}

/// Words in names of what comes from earlier runs, and of what goes to later ones.
const PAST: &[&str] = &["past", "cache"];
const PRESENT: &[&str] = &["present", "past", "cache"];

/// What tells the pairs of a cache apart: the numbers in a name, and whether it holds keys or values. `None` where none
/// of `words` is in the name.
fn pair_key(name: &str, words: &[&str]) -> Option<String> {
    let lower = name.to_lowercase();
    if !words.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let numbers: Vec<&str> = lower.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    let has = |words: &[&str]| {
        lower.split(['.', '_', '/', ':']).any(|part| words.contains(&part.trim_end_matches(char::is_numeric)))
    };
    // "past_key_values" names the pair, not its first part.
    let kind = if has(&["value", "v"]) {
        "value"
    } else if lower.replace("key_values", "").contains("key") || has(&["k"]) {
        "key"
    } else {
        "both"
    };
    Some(format!("{} {kind}", numbers.join(".")))
}

/// What the input `value` says, by its name and type; `None` where that is not known.
fn role(value: &ValueInfoProto) -> Option<Role> {
    let name = value.name.to_lowercase();
    let has = |word: &str| name.contains(word);
    let dtype = elem_of(declared(value)?.elem_type).and_then(data_type)?;
    if rank(value) >= 4 && dtype == DataType::Float && pair_key(&name, PAST).is_some() {
        return Some(Role::Cache);
    }
    Some(match dtype {
        _ if has("mask") && rank(value) <= 2 => Role::Mask,
        DataType::Int if has("cache_position") || has("position") => Role::Positions,
        DataType::Int if has("seqlens_k") => Role::Last,
        DataType::Int if has("write_ind") || has("past_seq") => Role::Past,
        DataType::Int if has("total") || has("nonpad") || has("kv_seqlen") => Role::Total,
        DataType::Int
            if rank(value) == 2 && (has("ids") || has("tokens") || name == "input" || name == "x" || name == "idx") =>
        {
            if has("type") {
                return None;
            }
            Role::Ids
        }
        _ => return None,
    })
}

impl Decoder {
    fn of(mut model: ModelProto) -> Result<Self, ImportError> {
        let graph = model.graph.get_or_insert_default();
        if graph
            .node
            .iter()
            .any(|node| node.op_type == "If" && free_inputs(graph).iter().any(|v| node.input.contains(&v.name)))
        {
            return fail(
                "a merged export: an `If` chooses between the steps with and without a cache; give the file with one of \
                 them (`decoder_with_past_model.onnx`, or export with `--no-post-process`)",
            );
        }
        let inputs = free_inputs(graph);
        let lone = inputs.len() == 1;
        let mut roles = Vec::new();
        for &value in &inputs {
            let integer = declared(value).and_then(|t| data_type(elem_of(t.elem_type)?)) == Some(DataType::Int);
            let role = role(value).or((lone && integer && rank(value) <= 2).then_some(Role::Ids));
            let Some(role) = role else {
                return fail(format!(
                    "the input `{}` has no meaning for a decoder; known: ids `[1, length]`, masks `[1, length]`, positions, \
                     lengths, and caches `past..key|value` of four dimensions",
                    value.name
                ));
            };
            roles.push((value.clone(), role));
        }
        let ids: Vec<&ValueInfoProto> = roles.iter().filter(|(_, role)| *role == Role::Ids).map(|(v, _)| v).collect();
        let &[ids] = &ids[..] else {
            return fail(format!("a decoder has one input of token ids; this model has {}", ids.len()));
        };
        let dims = fixed_dims(ids);
        if dims.len() == 2 && dims[0].is_some_and(|batch| batch != 1) {
            return fail(format!(
                "`{}` has a batch of {}; export the model with one sequence",
                ids.name,
                dims[0].unwrap_or(0)
            ));
        }
        let fixed_rows = dims.last().copied().flatten();
        let present = Self::pairs(graph, &roles)?;
        Ok(Self { roles, present, fixed_rows, model })
    }

    /// Outputs that hold keys and values, with the input each belongs to (empty where the model has no cache inputs).
    fn pairs(graph: &GraphProto, roles: &[(ValueInfoProto, Role)]) -> Result<Vec<(String, String)>, ImportError> {
        let caches: Vec<&ValueInfoProto> =
            roles.iter().filter(|(_, role)| *role == Role::Cache).map(|(v, _)| v).collect();
        let mut by_key = BTreeMap::new();
        for cache in &caches {
            let key = pair_key(&cache.name, PAST).unwrap_or_default();
            if let Some(other) = by_key.insert(key, *cache) {
                return fail(format!(
                    "the cache inputs `{}` and `{}` cannot be told apart; number them",
                    other.name, cache.name
                ));
            }
        }
        let mut present = Vec::new();
        for output in &graph.output {
            let key = pair_key(&output.name, PRESENT).filter(|_| rank(output) >= 4 || rank(output) == 0);
            let Some(key) = key else { continue };
            let Some(cache) = by_key.remove(&key) else {
                if caches.is_empty() {
                    present.push((String::new(), output.name.clone()));
                    continue;
                }
                return fail(format!(
                    "`{}` belongs to no cache input; past and present must come in pairs",
                    output.name
                ));
            };
            let (from, to) = (fixed_dims(cache), fixed_dims(output));
            let differ = |(axis, (a, b)): (usize, (&Option<usize>, &Option<usize>))| {
                axis != 2 && a.is_some() && b.is_some() && a != b
            };
            if !to.is_empty() && (from.len() != to.len() || from.iter().zip(&to).enumerate().any(differ)) {
                return fail(format!(
                    "`{}` and `{}` have different shapes; past and present must match",
                    cache.name, output.name
                ));
            }
            present.push((cache.name.clone(), output.name.clone()));
        }
        match by_key.into_values().next() {
            Some(cache) => fail(format!(
                "no output writes the cache `{}`; export the model with its present keys and values",
                cache.name
            )),
            None => Ok(present),
        }
    }

    /// Rows of the whole sequence.
    fn rows(&self, context: usize) -> Result<usize, ImportError> {
        let context = context.max(MIN_POSITIONS);
        match self.fixed_rows {
            None => Ok(context),
            // A step of fixed size: as many rows as asked for, if its operators allow.
            Some(rows) if rows < context && self.roles.iter().any(|(_, role)| *role == Role::Cache) => Ok(context),
            Some(rows) if rows < context => fail(format!(
                "--context {context} is beyond the {rows} positions that the model is exported for; export it with a dynamic \
                 sequence length or give --context {rows}"
            )),
            Some(rows) => Ok(rows),
        }
    }

    /// Names of the buffers that new keys and values are scattered into.
    fn scattered(&self) -> HashSet<&str> {
        let nodes = self.model.graph.iter().flat_map(|graph| &graph.node);
        let scatters = nodes.filter(|node| node.op_type == "TensorScatter");
        scatters.flat_map(|node| node.input.first()).map(String::as_str).collect()
    }

    /// Whether buffers of fixed length hold `rows` positions: behind their end a linear one is full, and a circular one
    /// forgets.
    fn check_buffers(&self, rows: usize) -> Result<(), ImportError> {
        let scattered = self.scattered();
        let caches = self.roles.iter().filter(|(_, role)| *role == Role::Cache).map(|(value, _)| value);
        for cache in caches.filter(|cache| scattered.contains(cache.name.as_str())) {
            let dims = fixed_dims(cache);
            let held = dims.len().checked_sub(2).and_then(|axis| dims[axis]);
            if let Some(held) = held.filter(|&held| held < rows) {
                return fail(format!(
                    "--context {rows} is beyond the {held} positions of the cache `{}`; give at most --context {held}",
                    cache.name
                ));
            }
        }
        Ok(())
    }

    /// An error of an import, or what the largest number of rows is where that was too large.
    fn beyond(
        &self,
        error: ImportError,
        rows: usize,
        import: &dyn Fn(Sizes) -> Result<Graph, ImportError>,
    ) -> ImportError {
        let works = |rows| import(Sizes { rows, past: 0, cached: false }).is_ok();
        if !matches!(error, ImportError::Node { .. }) || self.fixed_rows.is_some() || !works(MIN_POSITIONS) {
            return error;
        }
        let (mut low, mut high) = (MIN_POSITIONS, rows);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if works(middle) { low = middle } else { high = middle }
        }
        ImportError::Decoder(format!(
            "--context {rows} is beyond the position table of the model; give at most --context {low}"
        ))
    }

    fn import(&self, bytes: &[u8], folder: Option<&Path>, sizes: Sizes) -> Result<Graph, ImportError> {
        let mut model = self.model.clone();
        let graph = model.graph.get_or_insert_default();
        let scattered = self.scattered();
        let mut stored = Vec::new();
        let mut inputs = Vec::new();
        for (value, role) in &self.roles {
            let total = sizes.past + sizes.rows;
            let elem = declared(value).map_or(0, |tensor| tensor.elem_type);
            // A buffer of all positions, or the past alone.
            let held = if scattered.contains(value.name.as_str()) { total } else { sizes.past };
            let rows = |first: usize, count: usize| (first..first + count).map(|at| at as i64).collect::<Vec<_>>();
            let shaped = |count: usize| match rank(value) {
                0 => vec![],
                1 => vec![count],
                _ => vec![1, count],
            };
            match role {
                Role::Ids => inputs.push(with_shape(value, &shaped(sizes.rows))),
                Role::Cache => {
                    let shape = cache_shape(value, held)?;
                    if sizes.cached && sizes.past > 0 {
                        inputs.push(with_shape(value, &shape));
                    } else {
                        stored.push(constant(&value.name, elem, &shape, &vec![0; shape.iter().product()]));
                    }
                }
                Role::Mask => stored.push(constant(&value.name, elem, &shaped(total), &vec![1; total])),
                Role::Positions => {
                    stored.push(constant(&value.name, elem, &shaped(sizes.rows), &rows(sizes.past, sizes.rows)))
                }
                Role::Total => stored.push(constant(&value.name, elem, &shaped(1), &[total as i64])),
                Role::Last => stored.push(constant(&value.name, elem, &shaped(1), &[total as i64 - 1])),
                Role::Past => stored.push(constant(&value.name, elem, &shaped(1), &[sizes.past as i64])),
            }
        }
        graph.input = inputs;
        graph.initializer.extend(stored);
        // Their lengths are those of this import, whatever the file declares.
        for output in graph.output.iter_mut().filter(|output| self.present.iter().any(|(_, name)| *name == output.name))
        {
            if let Some(type_proto::Value::TensorType(tensor)) = output.r#type.as_mut().and_then(|t| t.value.as_mut()) {
                tensor.shape = None;
            }
        }
        if !sizes.cached {
            graph.output.retain(|output| !self.present.iter().any(|(_, name)| *name == output.name));
            if graph.output.is_empty() {
                return fail("the model gives no logits: all its outputs are keys and values");
            }
        }
        let defaults =
            if model.functions.is_empty() { Default::default() } else { defaults::function_defaults(bytes)? };
        walk::import_model(model, defaults, folder, &ImportOptions::default())
    }

    /// Compares the float model on three positions at once with two and then one behind them.
    fn check_pairs(&self, import: &dyn Fn(Sizes) -> Result<Graph, ImportError>) -> Result<(), ImportError> {
        let whole = import(Sizes { rows: PROMPT + 1, past: 0, cached: false })?;
        let prompt = import(Sizes { rows: PROMPT, past: 0, cached: true })?;
        let step = import(Sizes { rows: 1, past: PROMPT, cached: true })?;
        let ids = |range: std::ops::Range<usize>| Data::Int(range.map(|id| id as i64 % 2).collect());
        let run = |graph: &Graph, inputs: &[Data]| {
            exec::run(graph, inputs, &mut |_, _| {})
                .map_err(|error| ImportError::Decoder(format!("the model cannot be run with its cache: {error}")))
        };
        let named = |graph: &Graph, name: &str| graph.outputs.iter().position(|&id| graph.tensors[id].name == name);
        let expected = run(&whole, &[ids(0..PROMPT + 1)])?;
        let kept = run(&prompt, &[ids(0..PROMPT)])?;
        let mut inputs = Vec::new();
        for &id in &step.inputs {
            let tensor = &step.tensors[id];
            let output = self.present.iter().find(|(cache, _)| *cache == tensor.name).map(|(_, output)| output);
            inputs.push(match output.and_then(|name| kept.get(named(&prompt, name)?)) {
                Some(value) => padded(value, &prompt, output, tensor.len()),
                None => ids(PROMPT..PROMPT + 1),
            });
        }
        let behind = run(&step, &inputs)?;
        let is_output = |id: &TensorId| !self.present.iter().any(|(_, name)| *name == step.tensors[*id].name);
        for (&id, got) in step.outputs.iter().zip(&behind).filter(|(id, _)| is_output(id)) {
            let Some(want) = named(&whole, &step.tensors[id].name).and_then(|index| expected.get(index)) else {
                continue;
            };
            let (got, want) = (got.to_f32(), want.to_f32());
            let last = want.get(want.len().saturating_sub(got.len())..).unwrap_or(&[]);
            let largest = last.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            let apart = got.iter().zip(last).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            if apart.is_nan() || apart > SAME_LOGITS * largest {
                return fail(format!(
                    "past and present do not match: `{}` of the third token differs by {apart:.3} between a run with the cache \
                     and one without; check the names of the pairs",
                    step.tensors[id].name
                ));
            }
        }
        Ok(())
    }
}

/// Keys or values of a first run as the cache input of the next; a longer buffer is filled up with zeros.
fn padded(value: &Data, graph: &Graph, name: Option<&String>, len: usize) -> Data {
    let values = value.to_f32();
    if values.len() == len {
        return Data::Float(values);
    }
    let shape = name
        .and_then(|name| graph.outputs.iter().find(|&&id| graph.tensors[id].name == *name))
        .map(|&id| graph.shape(id));
    let Some([lead @ .., rows, width]) = shape else { return Data::Float(vec![0.0; len]) };
    let heads: usize = lead.iter().product();
    let to = len / heads.max(1);
    let mut out = Vec::with_capacity(len);
    for head in values.chunks(rows * width) {
        out.extend_from_slice(head);
        out.resize(out.len() + to.saturating_sub(rows * width), 0.0);
    }
    Data::Float(out)
}

/// The shape of a cache input with `held` positions.
fn cache_shape(value: &ValueInfoProto, held: usize) -> Result<Vec<usize>, ImportError> {
    let dims = fixed_dims(value);
    let rank = dims.len();
    let size = |(axis, dim): (usize, &Option<usize>)| match dim {
        // `[batch, heads, positions, width]`, perhaps behind a dimension for keys and values.
        _ if axis == rank - 2 => Some(held),
        Some(size) => Some(*size),
        None if axis == rank.saturating_sub(4) => Some(1),
        None => None,
    };
    let shape: Option<Vec<usize>> = dims.iter().enumerate().map(size).collect();
    shape.ok_or_else(|| {
        ImportError::Decoder(format!(
            "the cache `{}` must declare its heads and their width: `[batch, heads, past length, width]`",
            value.name
        ))
    })
}

/// `value` with a fixed shape.
fn with_shape(value: &ValueInfoProto, shape: &[usize]) -> ValueInfoProto {
    let mut value = value.clone();
    let dim = |&size: &usize| Dimension { value: Some(Value::DimValue(size as i64)), ..Default::default() };
    if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    }
    value
}

/// A stored tensor of whole numbers in the element type `elem`.
fn constant(name: &str, elem: i32, shape: &[usize], values: &[i64]) -> TensorProto {
    let mut proto = TensorProto {
        name: name.to_owned(),
        data_type: elem,
        dims: shape.iter().map(|&d| d as i64).collect(),
        ..Default::default()
    };
    let bytes = |value: &i64| -> Vec<u8> {
        match elem_of(elem) {
            Some(Elem::Float) => (*value as f32).to_le_bytes().to_vec(),
            Some(Elem::Double) => (*value as f64).to_le_bytes().to_vec(),
            Some(Elem::Float16) => half::f16::from_f32(*value as f32).to_le_bytes().to_vec(),
            Some(Elem::Bfloat16) => half::bf16::from_f32(*value as f32).to_le_bytes().to_vec(),
            Some(Elem::Int32 | Elem::Uint32) => (*value as i32).to_le_bytes().to_vec(),
            Some(Elem::Int16 | Elem::Uint16) => (*value as i16).to_le_bytes().to_vec(),
            Some(Elem::Int8 | Elem::Uint8 | Elem::Bool) => vec![*value as u8],
            _ => value.to_le_bytes().to_vec(),
        }
    };
    proto.raw_data = values.iter().flat_map(bytes).collect();
    proto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_told_apart_by_numbers_and_kind() {
        let past = |name| pair_key(name, PAST);
        let present = |name| pair_key(name, PRESENT);
        for (from, to) in [
            ("past_key_values.3.key", "present.3.key"),
            ("past_key_values.3.value", "present.3.value"),
            ("past_key_3", "present_key_3"),
            ("past_v_1", "present_v_1"),
            ("k_cache_0", "k_cache_out_0"),
        ] {
            assert_eq!(past(from), present(to), "{from} {to}");
            assert!(past(from).is_some());
        }
        assert_ne!(past("past_key_values.3.key"), past("past_key_values.3.value"));
        assert_ne!(past("past_key_values.3.key"), past("past_key_values.1.key"));
        assert_eq!(past("input_ids"), None);
    }
}
