//! The same ONNX file, read by tract.
//!
//! tract gets the nodes that it knows. What it does not know, and what it is known to compute wrongly ([`excluded`]),
//! becomes an input with the importer's values, so that everything behind it is compared all the same.

use super::{Reread, by_name};
use shiftformer_convert::graph::exec::run;
use shiftformer_convert::graph::{Data, DataType, Graph, TensorId};
use shiftformer_convert::import::isolate;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tract_onnx::Onnx;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_proto,
    type_proto,
};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{anyhow, bail, ensure};
use tract_onnx::tract_core::plan::eval;
use tract_onnx::tract_hir::infer::Factoid;

/// Most values of all tensors together, in both readings: 1 GiB.
const MAX_VALUES: usize = 1 << 27;
/// tract recurses over the graph.
const STACK_BYTES: usize = 256 << 20;

/// Why nothing was compared.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Skipped {
    /// The time is over.
    #[error("it takes too long")]
    Time,
    /// The tensors need too much memory.
    #[error("its tensors need too much memory")]
    Memory,
    /// tract, or the thread for it, failed.
    #[error("{0}")]
    Failed(String),
}

/// Computes the model at `path` on `inputs`, in the order of the inputs of `graph`, which is that model as imported. Gives
/// the tensors that both have, in the order of the nodes in the file.
///
/// # Errors
/// [`Skipped`]: `budget` is over, or tract cannot load, type or compute the model.
pub fn read(path: &Path, graph: &Graph, inputs: &[Data], budget: Duration) -> Result<Vec<Reread>, Skipped> {
    if graph.nodes.iter().map(|node| graph.tensors[node.output].len()).sum::<usize>() > MAX_VALUES {
        return Err(Skipped::Memory);
    }
    let deadline = Instant::now() + budget;
    let (path, graph, inputs) = (path.to_owned(), graph.clone(), inputs.to_vec());
    let (sender, receiver) = channel();
    let work = move || {
        let result = isolate::run(|| read_here(&path, &graph, &inputs, deadline));
        // Nobody listens once the time is over.
        let _ = sender.send(result.unwrap_or_else(|panic| Err(Skipped::Failed(panic))));
    };
    let thread = std::thread::Builder::new().name("tract".to_owned()).stack_size(STACK_BYTES).spawn(work);
    thread.map_err(|error| Skipped::Failed(error.to_string()))?;
    receiver.recv_timeout(budget).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(Skipped::Time),
        RecvTimeoutError::Disconnected => Err(Skipped::Failed("its thread ended".to_owned())),
    })
}

fn read_here(path: &Path, graph: &Graph, inputs: &[Data], deadline: Instant) -> Result<Vec<Reread>, Skipped> {
    let failed = |error: TractError| {
        if Instant::now() >= deadline { Skipped::Time } else { Skipped::Failed(format!("{error:#}")) }
    };
    let framework = tract_onnx::onnx();
    let proto = framework.proto_model_for_path(path).map_err(failed)?;
    let known = Known::of(graph, inputs);
    let part = part(proto, &framework, &known)?;
    compute(&framework, &part, path, &known, deadline).map_err(failed)
}

/// The importer's graph by the names of its tensors.
struct Known<'g> {
    graph: &'g Graph,
    inputs: &'g [Data],
    tensors: HashMap<&'g str, TensorId>,
}

impl<'g> Known<'g> {
    fn of(graph: &'g Graph, inputs: &'g [Data]) -> Self {
        Self { graph, inputs, tensors: by_name(graph) }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The values of some tensors.
    fn values(&self, names: &HashSet<String>) -> Result<HashMap<TensorId, Data>, Skipped> {
        let wanted: HashSet<TensorId> =
            names.iter().filter_map(|name| self.tensors.get(name.as_str()).copied()).collect();
        let mut values: HashMap<TensorId, Data> =
            self.graph.inputs.iter().copied().zip(self.inputs.iter().cloned()).collect();
        values.extend(wanted.iter().filter_map(|&id| Some((id, self.graph.constant(id)?.clone()))));
        if wanted.iter().any(|id| !values.contains_key(id)) {
            let mut watch = |id: TensorId, data: &Data| {
                if wanted.contains(&id) {
                    values.insert(id, data.clone());
                }
            };
            run(self.graph, self.inputs, &mut watch).map_err(|error| Skipped::Failed(error.to_string()))?;
        }
        Ok(values)
    }
}

/// The part of the model that tract computes.
struct Part {
    model: ModelProto,
    /// Outputs of nodes, in the order of the nodes: tensor, node, operator.
    outputs: Vec<(String, String, String)>,
}

/// The nodes that tract knows and the importer's graph needs, with the rest as inputs.
fn part(mut model: ModelProto, framework: &Onnx, known: &Known<'_>) -> Result<Part, Skipped> {
    let functions: HashSet<(String, String)> = model
        .functions
        .drain(..)
        .map(|function| (function.domain.unwrap_or_default(), function.name.unwrap_or_default()))
        .collect();
    let mut graph = model.graph.take().unwrap_or_default();
    let types: HashMap<String, i32> = graph.input.iter().chain(&graph.value_info).filter_map(element_type).collect();
    let stored: HashMap<String, i32> =
        graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type)).collect();
    let mut available: HashSet<String> = stored.keys().cloned().collect();
    let mut inputs: HashSet<String> = graph.input.iter().map(|input| input.name.clone()).collect();
    inputs.retain(|name| !stored.contains_key(name) && known.has(name));
    available.extend(inputs.iter().cloned());
    let mut nodes: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for node in graph.node.drain(..) {
        let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
        let function = functions.contains(&(node.domain.clone(), node.op_type.clone()));
        let fed = node.input.iter().all(|name| name.is_empty() || available.contains(name));
        let knows = standard && !function && framework.op_register.0.contains_key(&node.op_type);
        let outputs = node.output.iter().filter(|name| !name.is_empty());
        if knows && fed && excluded(&node, &stored).is_none() {
            available.extend(outputs.cloned());
            nodes.push(node);
        } else {
            let computed: Vec<String> = outputs.filter(|name| known.has(name)).cloned().collect();
            available.extend(computed.iter().cloned());
            inputs.extend(computed);
        }
    }
    let mut outputs = Vec::new();
    for node in nodes.iter().filter(|node| node.op_type != "Constant") {
        let label = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        for name in node.output.iter().filter(|name| known.has(name)) {
            outputs.push((name.clone(), label.cloned().unwrap_or_default(), node.op_type.clone()));
        }
    }
    if outputs.is_empty() {
        return Err(Skipped::Failed("it knows no node of the model".to_owned()));
    }
    let mut needed: HashSet<String> = outputs.iter().map(|(name, ..)| name.clone()).collect();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    let mut inputs: Vec<String> = inputs.into_iter().filter(|name| needed.contains(name)).collect();
    inputs.sort_unstable();
    graph.initializer.retain(|tensor| needed.contains(&tensor.name));
    let declare = |name: &String| declaration(name, types.get(name).copied(), known);
    let graph = GraphProto {
        node: kept,
        input: inputs.iter().filter_map(declare).collect(),
        output: outputs.iter().map(|(name, ..)| ValueInfoProto { name: name.clone(), ..Default::default() }).collect(),
        value_info: Vec::new(),
        ..graph
    };
    Ok(Part { model: ModelProto { graph: Some(graph), ..model }, outputs })
}

fn element_type(value: &ValueInfoProto) -> Option<(String, i32)> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some((value.name.clone(), tensor.elem_type))
}

/// An input with the shape that the importer gives it.
fn declaration(name: &str, elem_type: Option<i32>, known: &Known<'_>) -> Option<ValueInfoProto> {
    let tensor = &known.graph.tensors[*known.tensors.get(name)?];
    let elem_type = elem_type.unwrap_or(match tensor.dtype {
        DataType::Float => tensor_proto::DataType::Float,
        DataType::Int => tensor_proto::DataType::Int64,
        DataType::Bool => tensor_proto::DataType::Bool,
    } as i32);
    let dim = |&size: &usize| {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Dimension { value: Some(dimension::Value::DimValue(size)), ..Default::default() }
    };
    let shape = Some(TensorShapeProto { dim: tensor.shape.iter().map(dim).collect() });
    let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type, shape }));
    let kind = TypeProto { value, ..Default::default() };
    Some(ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..Default::default() })
}

/// Why a node is left out: forms of operators that tract 0.23 cannot load, or computes otherwise than the standard says.
/// `stored` has the element types of the stored tensors. Operators of other domains and of tract's feature `transformers`
/// (`Attention`, which is wrong there for boolean masks) are not known to it here at all.
fn excluded(node: &NodeProto, stored: &HashMap<String, i32>) -> Option<&'static str> {
    if node.attribute.iter().any(has_body) {
        return Some("the bodies of branches and loops have names of their own");
    }
    let eight_bits = [tensor_proto::DataType::Int8 as i32, tensor_proto::DataType::Uint8 as i32];
    let zero_point = node.input.get(2).and_then(|name| stored.get(name));
    if matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear")
        && zero_point.is_some_and(|elem| !eight_bits.contains(elem) && *elem != tensor_proto::DataType::Int32 as i32)
    {
        return Some("integers of 16 bits are read as 8 bits, those of 4 bits not at all");
    }
    None
}

fn has_body(attribute: &AttributeProto) -> bool {
    attribute.g.is_some() || !attribute.graphs.is_empty()
}

fn compute(
    framework: &Onnx,
    part: &Part,
    path: &Path,
    known: &Known<'_>,
    deadline: Instant,
) -> TractResult<Vec<Reread>> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    let parsed = framework.parse(&part.model, folder.to_str())?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        bail!("nothing gives `{name}`");
    }
    let graph = part.model.graph.as_ref();
    let names: HashSet<String> = graph.into_iter().flat_map(|g| &g.input).map(|input| input.name.clone()).collect();
    let values = known.values(&names).map_err(|skipped| anyhow!(skipped.to_string()))?;
    let mut inputs = tvec![];
    for &outlet in parsed.model.input_outlets()? {
        let name = &parsed.model.node(outlet.node).name;
        let value = known.tensors.get(name.as_str()).and_then(|id| Some((known.graph.shape(*id), values.get(id)?)));
        let (shape, data) = value.ok_or_else(|| anyhow!("`{name}` has no value"))?;
        let wanted = parsed.model.outlet_fact(outlet)?.datum_type.concretize();
        inputs.push(tensor(shape, data, wanted)?.into_tvalue());
    }
    // What enters as a half float is rounded there and not here.
    let halves = inputs.iter().any(|input| input.datum_type() == DatumType::F16);
    let plan = parsed.model.into_typed()?.into_runnable()?;
    let results = plan.spawn()?.run_plan_with_eval(inputs, |context, state, node, inputs| {
        ensure!(Instant::now() < deadline, "the time is over");
        eval(context, state, node, inputs)
    })?;
    let mut reread = Vec::with_capacity(results.len());
    for ((tensor, node, operator), value) in part.outputs.iter().zip(results) {
        let half = halves || value.datum_type() == DatumType::F16;
        if let Some(data) = data(&value)? {
            let (tensor, node, operator) = (tensor.clone(), node.clone(), operator.clone());
            reread.push(Reread { tensor, node, operator, shape: value.shape().to_vec(), data, half });
        }
    }
    Ok(reread)
}

fn tensor(shape: &[usize], data: &Data, wanted: Option<DatumType>) -> TractResult<Tensor> {
    let tensor = match data {
        Data::Float(values) => Tensor::from_shape(shape, values)?,
        Data::Int(values) => Tensor::from_shape(shape, values)?,
        Data::Bool(values) => Tensor::from_shape(shape, values)?,
    };
    Ok(match wanted {
        Some(wanted) => tensor.cast_to_dt(wanted)?.into_owned(),
        None => tensor,
    })
}

/// `None` for element types that the importer does not have.
fn data(value: &Tensor) -> TractResult<Option<Data>> {
    let kind = value.datum_type();
    Ok(if kind.is_float() {
        Some(Data::Float(value.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    } else if kind == DatumType::Bool {
        Some(Data::Bool(value.try_as_plain_ram()?.as_slice::<bool>()?.to_vec()))
    } else if kind.is_integer() || kind.is_tdim() {
        Some(Data::Int(value.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec()))
    } else {
        None
    })
}
