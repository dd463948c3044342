//! Inputs of the model: their types, and sizes for their symbolic dimensions.

use super::error::ImportError;
use super::tensor::{Elem, data_type, elem_of};
use crate::import::onnx::tensor_shape_proto::dimension::Value;
use crate::import::onnx::type_proto::{self, Tensor};
use crate::import::onnx::{GraphProto, TensorShapeProto, ValueInfoProto};
use std::collections::{BTreeMap, BTreeSet};

/// What the caller decides.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name, or by position as `input.axis`, e.g. `tokens.1`, which goes before the name.
    pub dims: BTreeMap<String, usize>,
}

/// One input of the model.
pub struct Input {
    /// Name.
    pub name: String,
    /// Every size known.
    pub shape: Vec<usize>,
    /// Element type.
    pub elem: Elem,
}

/// A declared dimension.
enum Dim {
    Fixed(usize),
    Named(String),
}

fn declared(value: &ValueInfoProto) -> Option<&Tensor> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        type_proto::Value::SequenceType(_)
        | type_proto::Value::MapType(_)
        | type_proto::Value::OptionalType(_)
        | type_proto::Value::SparseTensorType(_)
        | type_proto::Value::OpaqueType(_) => None,
    }
}

/// Dimension `axis` of `shape`; one without a name is called `owner.axis`.
fn dim(shape: &TensorShapeProto, axis: usize, owner: &str) -> Dim {
    match &shape.dim[axis].value {
        // Some exporters write -1 or 0 for "any".
        Some(Value::DimValue(size)) if *size > 0 => Dim::Fixed(usize::try_from(*size).unwrap_or(usize::MAX)),
        Some(Value::DimParam(name)) if !name.is_empty() => Dim::Named(name.clone()),
        _ => Dim::Named(format!("{owner}.{axis}")),
    }
}

/// The name of a dimension by its position.
fn place(input: &str, axis: usize) -> String {
    format!("{input}.{axis}")
}

/// The inputs of `graph` that are not initializers.
pub fn inputs(graph: &GraphProto, options: &ImportOptions) -> Result<Vec<Input>, ImportError> {
    let stored: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let values: Vec<&ValueInfoProto> = graph.input.iter().filter(|v| !stored.contains(v.name.as_str())).collect();
    let mut types = Vec::new();
    for value in &values {
        types.push(typed(value)?);
    }
    let sizes = symbol_sizes(&values, &types, options)?;
    let resolve = |(value, (tensor, elem)): (&&ValueInfoProto, &(&Tensor, Elem))| {
        let shape = tensor.shape.as_ref().map_or(0, |s| s.dim.len());
        let shape = (0..shape).filter_map(|axis| match dim(tensor.shape.as_ref()?, axis, &value.name) {
            Dim::Fixed(size) => Some(size),
            Dim::Named(name) => options.dims.get(&place(&value.name, axis)).or_else(|| sizes.get(&name)).copied(),
        });
        Input { name: value.name.clone(), shape: shape.collect(), elem: *elem }
    };
    Ok(values.iter().zip(&types).map(resolve).collect())
}

fn typed(value: &ValueInfoProto) -> Result<(&Tensor, Elem), ImportError> {
    let fail = |reason: &str| ImportError::Tensor { name: value.name.clone(), reason: reason.into() };
    let tensor = declared(value).ok_or_else(|| fail("the input is not a tensor"))?;
    let elem = elem_of(tensor.elem_type).filter(|&e| data_type(e).is_some());
    let elem = elem.ok_or_else(|| fail("inputs must be floats, integers or booleans"))?;
    if tensor.shape.is_none() {
        return Err(fail("the input declares no shape; export with fixed or named dimensions"));
    }
    Ok((tensor, elem))
}

/// A size for every symbolic dimension: from the options, or 1 for a batch axis.
fn symbol_sizes(
    values: &[&ValueInfoProto],
    types: &[(&Tensor, Elem)],
    options: &ImportOptions,
) -> Result<BTreeMap<String, usize>, ImportError> {
    let mut leading = BTreeSet::new();
    let mut inner = BTreeSet::new();
    let mut places = BTreeSet::new();
    for (value, (tensor, _)) in values.iter().zip(types) {
        let Some(shape) = &tensor.shape else { continue };
        for axis in 0..shape.dim.len() {
            let Dim::Named(name) = dim(shape, axis, &value.name) else { continue };
            // A size given for this place alone leaves the name to the others.
            let given = options.dims.contains_key(&place(&value.name, axis));
            if axis == 0 || given {
                leading.insert(name)
            } else {
                inner.insert(name)
            };
            places.insert(place(&value.name, axis));
        }
    }
    let known: BTreeSet<&String> = leading.union(&inner).collect();
    if let Some(name) = options.dims.keys().find(|name| !known.contains(name) && !places.contains(*name)) {
        return Err(ImportError::UnknownDim(name.clone(), known.into_iter().cloned().collect()));
    }
    let missing: Vec<String> = inner.iter().filter(|name| !options.dims.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        return Err(ImportError::DynamicDims(missing));
    }
    // A name that is first everywhere is the batch.
    Ok(known.into_iter().map(|name| (name.clone(), options.dims.get(name).copied().unwrap_or(1))).collect())
}

/// Compares the shape of a computed value with the fixed sizes that the model declares for it.
pub fn check_declared(value: &ValueInfoProto, computed: &[usize]) -> Result<(), ImportError> {
    let Some(shape) = declared(value).and_then(|tensor| tensor.shape.as_ref()) else { return Ok(()) };
    // Exporters write an empty shape where they know none.
    if shape.dim.is_empty() {
        return Ok(());
    }
    let agrees = shape.dim.len() == computed.len()
        && computed.iter().enumerate().all(|(axis, &size)| match dim(shape, axis, "") {
            Dim::Fixed(declared) => declared == size,
            Dim::Named(_) => true,
        });
    if agrees {
        return Ok(());
    }
    let text = (0..shape.dim.len()).map(|axis| match dim(shape, axis, "?") {
        Dim::Fixed(size) => size.to_string(),
        Dim::Named(name) => name,
    });
    let declared = format!("[{}]", text.collect::<Vec<_>>().join(", "));
    Err(ImportError::DeclaredShape { name: value.name.clone(), computed: computed.to_vec(), declared })
}
