//! What a handler sees of its ONNX node: operands, attributes, and the ways to fail.

use crate::graph::TensorId;
use crate::import::onnx::attribute_proto::AttributeType;
use crate::import::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::cell::RefCell;

/// Why a node gives no graph nodes.
#[derive(Debug)]
pub enum OpError {
    /// It is valid ONNX without a counterpart; the text names the nearest supported form.
    Unsupported(String),
    /// It is not valid ONNX.
    Invalid(String),
    /// A constant that it stores cannot be used.
    Other(Box<super::error::ImportError>),
}

/// Outcome of a handler's step.
pub type OpResult<T> = Result<T, OpError>;

/// One entry per output of the node; `None` for outputs that are not computed.
pub type Outputs = Vec<Option<TensorId>>;

/// An [`OpError::Invalid`].
pub fn invalid<T>(reason: impl Into<String>) -> OpResult<T> {
    Err(OpError::Invalid(reason.into()))
}

/// An [`OpError::Unsupported`].
pub fn unsupported<T>(hint: impl Into<String>) -> OpResult<T> {
    Err(OpError::Unsupported(hint.into()))
}

/// The outputs of a node with one output.
pub fn one(id: TensorId) -> OpResult<Outputs> {
    Ok(vec![Some(id)])
}

/// Attributes that do not change the values of an inference in `f32`, and those of cases that are refused by operand.
const WITHOUT_EFFECT: [&str; 14] = [
    "consumed_inputs",
    "is_test",
    "mask_filter_value",
    "momentum",
    "past_present_share_buffer",
    "precision",
    "ratio",
    "rotary_embedding_dim",
    "saturate",
    "seed",
    "softmax_precision",
    "spatial",
    "stash_type",
    "storage_order",
];

/// An ONNX node with its operands.
pub struct Call<'a> {
    /// The node.
    pub proto: &'a NodeProto,
    /// Opset version of the node's domain.
    pub version: i64,
    /// Operands; `None` for optional ones left out.
    pub inputs: Vec<Option<TensorId>>,
    /// Whether something reads output `i`.
    pub wanted: Vec<bool>,
    /// Attributes that the handler has asked for.
    pub asked: RefCell<Vec<String>>,
}

impl Call<'_> {
    /// Operand `index`, which must be there.
    pub fn input(&self, index: usize) -> OpResult<TensorId> {
        match self.optional(index) {
            Some(id) => Ok(id),
            None => invalid(format!("operand {index} is missing")),
        }
    }

    /// Operand `index`, where it is there.
    pub fn optional(&self, index: usize) -> Option<TensorId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Whether something reads output `index`.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }

    /// Refuses attributes that nothing has asked for: newer opsets give old operators new meanings.
    pub fn check_attributes(&self) -> OpResult<()> {
        let asked = self.asked.borrow();
        let unknown = |name: &&str| !asked.iter().any(|a| a == name) && !WITHOUT_EFFECT.contains(name);
        match self.proto.attribute.iter().map(|a| a.name.as_str()).find(unknown) {
            Some(name) => unsupported(format!("attribute `{name}` has no counterpart; export without it")),
            None => Ok(()),
        }
    }

    /// Takes note of attributes that have no effect in this case.
    pub fn ignore(&self, names: &[&str]) {
        self.asked.borrow_mut().extend(names.iter().map(|&name| name.to_owned()));
    }

    fn attribute(&self, name: &str, kind: AttributeType) -> OpResult<Option<&AttributeProto>> {
        self.ignore(&[name]);
        let Some(attribute) = self.proto.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        if !attribute.ref_attr_name.is_empty() {
            return invalid(format!("attribute `{name}` refers to `{}` outside a function", attribute.ref_attr_name));
        }
        // Files older than IR version 3 leave the type out.
        if attribute.r#type != kind as i32 && attribute.r#type != 0 {
            return invalid(format!("attribute `{name}` must have type {}", kind.as_str_name()));
        }
        Ok(Some(attribute))
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> OpResult<Option<i64>> {
        Ok(self.attribute(name, AttributeType::Int)?.map(|a| a.i))
    }

    /// An integer attribute that defaults to `default`.
    pub fn int_or(&self, name: &str, default: i64) -> OpResult<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A number, which must be finite.
    pub fn float(&self, name: &str) -> OpResult<Option<f32>> {
        match self.attribute(name, AttributeType::Float)?.map(|a| a.f) {
            Some(value) if value.is_nan() => invalid(format!("attribute `{name}` is not a number")),
            value => Ok(value),
        }
    }

    /// A number that defaults to `default`.
    pub fn float_or(&self, name: &str, default: f32) -> OpResult<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> OpResult<Option<Vec<i64>>> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.clone()))
    }

    /// A list of numbers.
    pub fn floats(&self, name: &str) -> OpResult<Option<Vec<f32>>> {
        Ok(self.attribute(name, AttributeType::Floats)?.map(|a| a.floats.clone()))
    }

    /// A text that defaults to `default`.
    pub fn text_or(&self, name: &str, default: &str) -> OpResult<String> {
        let text = self.attribute(name, AttributeType::String)?.map(|a| String::from_utf8_lossy(&a.s).into_owned());
        Ok(text.unwrap_or_else(|| default.into()))
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> OpResult<Option<&TensorProto>> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// A subgraph.
    pub fn graph(&self, name: &str) -> OpResult<Option<&GraphProto>> {
        Ok(self.attribute(name, AttributeType::Graph)?.and_then(|a| a.g.as_ref()))
    }
}

/// `axis`, which may count from the end, as an index below `rank`.
pub fn axis_index(axis: i64, rank: usize) -> OpResult<usize> {
    let index = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match index {
        Some(index) if index >= 0 && (index as u64) < rank as u64 => Ok(index as usize),
        _ => invalid(format!("axis {axis} is outside a tensor of {rank} dimensions")),
    }
}

/// Several axes, ascending, each once.
pub fn axis_indices(axes: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    let mut indices = axes.iter().map(|&axis| axis_index(axis, rank)).collect::<OpResult<Vec<_>>>()?;
    indices.sort_unstable();
    if indices.windows(2).any(|pair| pair[0] == pair[1]) {
        return invalid(format!("an axis is listed twice in {axes:?}"));
    }
    Ok(indices)
}
