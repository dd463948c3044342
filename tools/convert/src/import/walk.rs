//! Walks the protobuf graph: names become tensors, nodes go to their handlers, functions and branches are inlined.

use super::builder::Builder;
use super::defaults::FunctionKey;
use super::error::{ImportError, UnsupportedNode};
use super::node::{Call, OpError, OpResult, Outputs};
use super::signature::ImportOptions;
use super::tensor::{self, data_type};
use super::{ops, order, signature};
use crate::graph::{Data, Graph, TensorId};
use crate::import::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Oldest and newest opset of the standard domain whose semantics are known.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=25;

/// How deep functions and branches may lie in one another.
const MAX_DEPTH: usize = 24;
/// Most ONNX nodes with all functions expanded.
const MAX_VISITS: usize = 1 << 18;

/// What a name stands for.
#[derive(Clone, Copy)]
enum Value {
    Tensor(TensorId),
    /// An optional operand left out.
    Absent,
    /// The result of a node that has no counterpart.
    Unknown,
}

/// Names of one graph or function body.
struct Frame {
    values: HashMap<String, Value>,
    /// Names of the enclosing frame are visible.
    transparent: bool,
    opsets: HashMap<String, i64>,
    /// Put before node names.
    prefix: String,
}

struct Walker {
    builder: Builder,
    frames: Vec<Frame>,
    /// Tensors of the model that nothing has read yet.
    stored: HashMap<String, TensorProto>,
    functions: HashMap<FunctionKey, Function>,
    /// Functions that are being expanded.
    active: Vec<FunctionKey>,
    declared: HashMap<String, ValueInfoProto>,
    unsupported: Vec<UnsupportedNode>,
    visits: usize,
}

/// Imports a parsed model; `defaults` are the default attributes of its functions.
pub fn import_model(
    mut model: ModelProto,
    mut defaults: HashMap<FunctionKey, Vec<AttributeProto>>,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let opsets = opsets(&model.opset_import);
    match opsets.get("") {
        Some(version) if OPSETS.contains(version) => {}
        Some(&version) => return Err(ImportError::Opset(version)),
        None if model.graph.iter().flat_map(|g| &g.node).any(|node| normal_domain(&node.domain).is_empty()) => {
            return Err(ImportError::Parse("it names no opset version".into()));
        }
        None => {}
    }
    let mut graph = model.graph.take().unwrap_or_default();
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or(String::new(), |v| v.name.clone());
        return Err(ImportError::Tensor { name, reason: "sparse tensors are not supported; store it dense".into() });
    }
    let inputs = signature::inputs(&graph, options)?;
    let frame = Frame { values: HashMap::new(), transparent: false, opsets, prefix: String::new() };
    let mut walker = Walker {
        builder: Builder::new(folder),
        frames: vec![frame],
        stored: graph.initializer.drain(..).map(|t| (t.name.clone(), t)).collect(),
        functions: functions(model.functions, &mut defaults)?,
        active: Vec::new(),
        declared: graph.value_info.drain(..).chain(graph.output.iter().cloned()).map(|v| (v.name.clone(), v)).collect(),
        unsupported: Vec::new(),
        visits: 0,
    };
    walker.add_inputs(inputs)?;
    let outputs: Vec<&str> = graph.output.iter().map(|value| value.name.as_str()).collect();
    walker.walk(&graph.node, &outputs)?;
    walker.finish(&outputs)
}

fn opsets(imports: &[OperatorSetIdProto]) -> HashMap<String, i64> {
    imports.iter().map(|import| (normal_domain(&import.domain).to_owned(), import.version)).collect()
}

/// The standard domain has two names.
fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// An operator with its domain, unless that is the standard one.
fn qualified(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}

/// A local function.
struct Function {
    proto: FunctionProto,
    /// Attributes that a call may leave out.
    defaults: Vec<AttributeProto>,
}

fn functions(
    list: Vec<FunctionProto>,
    defaults: &mut HashMap<FunctionKey, Vec<AttributeProto>>,
) -> Result<HashMap<FunctionKey, Function>, ImportError> {
    let mut functions = HashMap::new();
    for proto in list {
        let written = (proto.domain.clone(), proto.name.clone());
        let key = (normal_domain(&written.0).to_owned(), written.1.clone());
        let defaults = defaults.remove(&written).unwrap_or_default();
        if functions.insert(key, Function { proto, defaults }).is_some() {
            return Err(ImportError::Graph(format!(
                "two functions are called `{}`; overloads are not supported",
                written.1
            )));
        }
    }
    Ok(functions)
}

impl Walker {
    fn add_inputs(&mut self, inputs: Vec<signature::Input>) -> Result<(), ImportError> {
        for input in inputs {
            let fail = |reason: String| ImportError::Tensor { name: input.name.clone(), reason };
            let dtype = data_type(input.elem).ok_or_else(|| fail("unknown element type".into()))?;
            if let Err(OpError::Unsupported(reason) | OpError::Invalid(reason)) =
                self.builder.checked_count(&input.shape)
            {
                return Err(fail(reason));
            }
            let id = self.builder.graph.add_tensor(input.name.clone(), input.shape.clone(), dtype);
            self.builder.set_elem(id, input.elem);
            self.builder.graph.inputs.push(id);
            let range = tensor::integer_range(input.elem).map(|(low, high)| (i64::from(low), i64::from(high)));
            self.builder.graph.input_ranges.push(range);
            if self.bind(&input.name, Value::Tensor(id)).is_some() {
                return Err(ImportError::Graph(format!("two inputs are called `{}`", input.name)));
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> &mut Frame {
        // The frame of the model is never popped.
        self.frames.last_mut().expect("a frame")
    }

    fn bind(&mut self, name: &str, value: Value) -> Option<Value> {
        self.frame().values.insert(name.to_owned(), value)
    }

    /// What `name` stands for in the current frame.
    fn lookup(&mut self, name: &str) -> Result<Option<Value>, ImportError> {
        for depth in (0..self.frames.len()).rev() {
            if let Some(&value) = self.frames[depth].values.get(name) {
                return Ok(Some(value));
            }
            if depth == 0
                && let Some(proto) = self.stored.remove(name)
            {
                let id = self.add_stored(&proto)?;
                self.frames[0].values.insert(name.to_owned(), Value::Tensor(id));
                return Ok(Some(Value::Tensor(id)));
            }
            if !self.frames[depth].transparent {
                break;
            }
        }
        Ok(None)
    }

    fn add_stored(&mut self, proto: &TensorProto) -> Result<TensorId, ImportError> {
        let stored = tensor::decode(proto, self.builder.folder())?;
        let id = self.builder.graph.add_constant(proto.name.clone(), stored.shape, stored.data);
        self.builder.set_elem(id, stored.elem);
        Ok(id)
    }

    /// Visits the nodes that `outputs` need.
    fn walk(&mut self, nodes: &[NodeProto], outputs: &[&str]) -> Result<(), ImportError> {
        // Nodes that are not needed take time as well.
        self.visits = self.visits.saturating_add(nodes.len());
        if self.visits > MAX_VISITS {
            return Err(ImportError::Graph(format!("more than {MAX_VISITS} nodes with functions expanded")));
        }
        let order = order::order(nodes, outputs)?;
        for index in order.nodes {
            self.visit(&nodes[index], &order.read)?;
        }
        Ok(())
    }

    fn visit(&mut self, node: &NodeProto, read: &HashSet<String>) -> Result<(), ImportError> {
        let label = self.label(node);
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut unknown = false;
        for name in &node.input {
            inputs.push(match self.operand(name, &label)? {
                Value::Tensor(id) => Some(id),
                Value::Absent => None,
                Value::Unknown => {
                    unknown = true;
                    None
                }
            });
        }
        let domain = normal_domain(&node.domain);
        self.builder.begin(&label, &qualified(domain, &node.op_type));
        let version = self.frame().opsets.get(domain).copied().unwrap_or(1);
        let wanted = node.output.iter().map(|name| read.contains(name)).collect();
        let call = Call { proto: node, version, inputs, wanted, asked: RefCell::default() };
        let before = self.builder.graph.tensors.len();
        let outcome = self.outputs(&call, domain, unknown);
        if let Some(outputs) = self.resolve(outcome, &call, domain, &label)? {
            return self.bind_outputs(node, &outputs, before, read, &label);
        }
        for name in &node.output {
            self.bind(name, Value::Unknown);
        }
        Ok(())
    }

    /// The node's name, or that of its first output.
    fn label(&mut self, node: &NodeProto) -> String {
        let own = if node.name.is_empty() {
            node.output.iter().find(|n| !n.is_empty()).unwrap_or(&node.op_type)
        } else {
            &node.name
        };
        format!("{}{own}", self.frame().prefix)
    }

    fn operand(&mut self, name: &str, label: &str) -> Result<Value, ImportError> {
        if name.is_empty() {
            return Ok(Value::Absent);
        }
        match self.lookup(name)? {
            Some(value) => Ok(value),
            None => Err(ImportError::Graph(format!("node `{label}` reads `{name}`, which no node or input produces"))),
        }
    }

    /// What the node computes; `None` where an operand is not known and nothing can be said.
    fn outputs(&mut self, call: &Call, domain: &str, unknown: bool) -> Result<Option<Outputs>, OpError> {
        let key = (domain.to_owned(), call.proto.op_type.clone());
        // An own operator brings its function for other runtimes.
        if self.functions.contains_key(&key) && !(domain == ops::OWN_DOMAIN && ops::handler(domain, &key.1).is_some()) {
            return self.call_function(call, key, unknown).map(Some);
        }
        if domain.is_empty() && call.proto.op_type == "If" {
            return if unknown { Ok(None) } else { self.branch(call).map(Some) };
        }
        match ops::handler(domain, &call.proto.op_type) {
            None => Err(OpError::Unsupported(ops::hint(domain, &call.proto.op_type).into())),
            Some(_) if unknown => Ok(None),
            Some(handler) => {
                let outputs = handler(&mut self.builder, call)?;
                call.check_attributes()?;
                Ok(Some(outputs))
            }
        }
    }

    /// Notes an unsupported node and goes on; other errors end the import.
    fn resolve(
        &mut self,
        outcome: OpResult<Option<Outputs>>,
        call: &Call,
        domain: &str,
        label: &str,
    ) -> Result<Option<Outputs>, ImportError> {
        let op = qualified(domain, &call.proto.op_type);
        match outcome {
            Ok(outputs) => Ok(outputs),
            Err(OpError::Other(error)) => Err(*error),
            Err(OpError::Invalid(reason)) => Err(ImportError::Node { node: label.into(), op, reason }),
            Err(OpError::Unsupported(hint)) => {
                self.unsupported.push(UnsupportedNode { node: label.into(), op, version: call.version, hint });
                Ok(None)
            }
        }
    }

    fn bind_outputs(
        &mut self,
        node: &NodeProto,
        outputs: &Outputs,
        before: usize,
        read: &HashSet<String>,
        label: &str,
    ) -> Result<(), ImportError> {
        for (index, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            match outputs.get(index).copied().flatten() {
                Some(id) => {
                    if id >= before {
                        self.builder.graph.tensors[id].name = format!("{}{name}", self.frame().prefix);
                    }
                    self.check_declared(name, id)?;
                    self.bind(name, Value::Tensor(id));
                }
                None if read.contains(name) => {
                    let hint = format!(
                        "its output `{name}` is not computed; export the model without it: only the first output is"
                    );
                    let version = self.frame().opsets.get(normal_domain(&node.domain)).copied().unwrap_or(1);
                    self.unsupported.push(UnsupportedNode {
                        node: label.into(),
                        op: node.op_type.clone(),
                        version,
                        hint,
                    });
                    self.bind(name, Value::Unknown);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn check_declared(&self, name: &str, id: TensorId) -> Result<(), ImportError> {
        // Names inside functions and branches are not those of the model.
        match self.declared.get(name) {
            Some(value) if self.frames.len() == 1 => signature::check_declared(value, self.builder.graph.shape(id)),
            _ => Ok(()),
        }
    }

    /// Expands a local function in a frame of its own.
    fn call_function(&mut self, call: &Call, key: FunctionKey, unknown: bool) -> OpResult<Outputs> {
        if self.active.contains(&key) || self.frames.len() >= MAX_DEPTH {
            return Err(OpError::Invalid(format!(
                "function `{}` calls itself, or calls are nested more than {MAX_DEPTH} deep",
                key.1
            )));
        }
        let Function { proto: function, defaults } = &self.functions[&key];
        let function = function.clone();
        let given = |name: &str| call.proto.attribute.iter().any(|a| a.name == name);
        let mut attributes = call.proto.attribute.clone();
        attributes.extend(defaults.iter().filter(|default| !given(&default.name)).cloned());
        let nodes: Vec<NodeProto> = function.node.iter().map(|node| with_attributes(node, &attributes)).collect();
        let mut opsets = self.frame().opsets.clone();
        opsets.extend(self::opsets(&function.opset_import));
        let absent = if unknown { Value::Unknown } else { Value::Absent };
        let operands = function
            .input
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), call.optional(i).map_or(absent, Value::Tensor)));
        let label = self.label(call.proto);
        let frame = Frame { values: operands.collect(), transparent: false, opsets, prefix: format!("{label}/") };
        self.active.push(key);
        let outputs: Vec<&str> = function.output.iter().map(String::as_str).collect();
        let result = self.inline(frame, &nodes, &[], &outputs);
        self.active.pop();
        result
    }

    /// Inlines the branch that a constant condition chooses. Branches have no effects, so where the condition is computed
    /// both are inlined and their results chosen from.
    fn branch(&mut self, call: &Call) -> OpResult<Outputs> {
        let condition = call.input(0)?;
        let chosen = match self.builder.graph.constant(condition) {
            Some(Data::Bool(values)) if values.len() == 1 => values[0],
            Some(_) => return Err(OpError::Invalid("the condition must be one boolean".into())),
            None => return self.both_branches(call, condition),
        };
        let prefix = self.frame().prefix.clone();
        self.inline_branch(call, if chosen { "then_branch" } else { "else_branch" }, prefix)
    }

    fn both_branches(&mut self, call: &Call, condition: TensorId) -> OpResult<Outputs> {
        let (label, known) = (self.label(call.proto), self.unsupported.len());
        let then = self.inline_branch(call, "then_branch", format!("{label}/then/"))?;
        let other = self.inline_branch(call, "else_branch", format!("{label}/else/"))?;
        // What is wrong with a branch has been noted.
        if self.unsupported.len() > known {
            return Ok(vec![None; then.len()]);
        }
        if self.builder.shape(condition).iter().product::<usize>() != 1 {
            return Err(OpError::Invalid("the condition must be one boolean".into()));
        }
        self.builder.begin(&label, "If");
        let flag = self.builder.reshape(condition, &[])?;
        let mut outputs = Vec::with_capacity(then.len());
        for pair in then.into_iter().zip(other) {
            let (Some(a), Some(b)) = pair else { return Err(OpError::Invalid("a branch leaves an output out".into())) };
            let shapes = [a, b].map(|id| self.builder.shape(id));
            if shapes[0] != shapes[1] || self.builder.dtype(a) != self.builder.dtype(b) {
                return Err(OpError::Unsupported(format!(
                    "the condition depends on the input and the branches give tensors of unlike shapes or types ({:?} and \
                     {:?}); export one branch only (of a merged decoder: the file `decoder_with_past_model.onnx`)",
                    shapes[0], shapes[1]
                )));
            }
            outputs.push(Some(if a == b { a } else { self.builder.select(flag, a, b)? }));
        }
        Ok(outputs)
    }

    fn inline_branch(&mut self, call: &Call, name: &str, prefix: String) -> OpResult<Outputs> {
        let Some(graph) = call.graph(name)? else { return Err(OpError::Invalid(format!("`{name}` is missing"))) };
        if self.frames.len() >= MAX_DEPTH {
            return Err(OpError::Invalid(format!("branches are nested more than {MAX_DEPTH} deep")));
        }
        let opsets = self.frame().opsets.clone();
        let frame = Frame { values: HashMap::new(), transparent: true, opsets, prefix };
        let outputs: Vec<&str> = graph.output.iter().map(|value| value.name.as_str()).collect();
        self.inline(frame, &graph.node, &graph.initializer, &outputs)
    }

    fn inline(
        &mut self,
        frame: Frame,
        nodes: &[NodeProto],
        stored: &[TensorProto],
        outputs: &[&str],
    ) -> OpResult<Outputs> {
        let wrap = |error: ImportError| OpError::Other(Box::new(error));
        self.frames.push(frame);
        for proto in stored {
            let id = self.add_stored(proto).map_err(wrap)?;
            self.bind(&proto.name, Value::Tensor(id));
        }
        self.walk(nodes, outputs).map_err(wrap)?;
        let mut ids = Vec::with_capacity(outputs.len());
        for name in outputs {
            ids.push(match self.operand(name, name).map_err(wrap)? {
                Value::Tensor(id) => Some(id),
                Value::Absent | Value::Unknown => None,
            });
        }
        self.frames.pop();
        Ok(ids)
    }

    fn finish(mut self, outputs: &[&str]) -> Result<Graph, ImportError> {
        let mut ids = Vec::with_capacity(outputs.len());
        for &name in outputs {
            match self.lookup(name)? {
                Some(Value::Tensor(id)) => ids.push((name, id)),
                Some(_) => {}
                None => return Err(ImportError::Graph(format!("nothing gives the output `{name}`"))),
            }
        }
        if !self.unsupported.is_empty() {
            return Err(ImportError::Unsupported(self.unsupported));
        }
        self.builder.finish(&ids)
    }
}

/// The node of a function body with the attributes of the call put in.
fn with_attributes(node: &NodeProto, given: &[AttributeProto]) -> NodeProto {
    let attribute = node.attribute.iter().filter_map(|attribute| bound_attribute(attribute, given)).collect();
    NodeProto { attribute, ..node.clone() }
}

/// `None` where the attribute refers to one that the call leaves out.
fn bound_attribute(attribute: &AttributeProto, given: &[AttributeProto]) -> Option<AttributeProto> {
    if !attribute.ref_attr_name.is_empty() {
        let value = given.iter().find(|a| a.name == attribute.ref_attr_name)?;
        return Some(AttributeProto { name: attribute.name.clone(), ..value.clone() });
    }
    let body = |graph: &GraphProto| GraphProto {
        node: graph.node.iter().map(|node| with_attributes(node, given)).collect(),
        ..graph.clone()
    };
    Some(AttributeProto { g: attribute.g.as_ref().map(body), ..attribute.clone() })
}
