//! The samples and the weights as the float graph takes them, checked.

use super::ConvertError;
use crate::graph::{Data, DataType, Graph, Node, Op, TensorId};
use crate::model_file::Values;
use std::collections::HashMap;

/// The lookups whose indices come from an input as they are, each with the axis and the position of the input.
fn lookups(graph: &Graph) -> impl Iterator<Item = (&Node, usize, usize)> {
    let producers = graph.producers();
    let source = move |mut id: TensorId| {
        while let Some(node) = producers[id].map(|index| &graph.nodes[index]) {
            match node.op {
                Op::Reshape | Op::Transpose { .. } | Op::Expand => id = node.inputs[0],
                _ => return None,
            }
        }
        graph.inputs.iter().position(|&input| input == id)
    };
    graph.nodes.iter().filter_map(move |node| match node.op {
        Op::Gather { axis } => Some((node, axis, source(node.inputs[1])?)),
        _ => None,
    })
}

/// How often the samples look up every row of the tables, by name.
pub(super) fn id_counts(graph: &Graph, data: &[Vec<Data>]) -> HashMap<String, Vec<u32>> {
    let mut counts: HashMap<String, Vec<u32>> = HashMap::new();
    for (node, _, input) in lookups(graph).filter(|&(_, axis, _)| axis == 0) {
        let rows = graph.shape(node.inputs[0])[0];
        let of_table = counts.entry(graph.tensors[node.inputs[0]].name.clone()).or_insert_with(|| vec![0; rows]);
        for &id in data.iter().filter_map(|values| values.get(input)?.ints()).flatten() {
            let row = usize::try_from(if id < 0 { id + rows as i64 } else { id }).ok();
            if let Some(count) = row.and_then(|row| of_table.get_mut(row)) {
                *count = count.saturating_add(1);
            }
        }
    }
    counts
}

/// Ids that come from an input as they are lie within the tables they are looked up in.
pub(super) fn check_ids(graph: &Graph, data: &[Vec<Data>]) -> Result<(), ConvertError> {
    for (node, axis, input) in lookups(graph) {
        let rows = graph.shape(node.inputs[0])[axis];
        for (sample, values) in data.iter().enumerate() {
            let ids = values.get(input).and_then(Data::ints).unwrap_or(&[]);
            let limit = i64::try_from(rows).unwrap_or(i64::MAX);
            if let Some(&value) = ids.iter().find(|&&id| !(-limit..limit).contains(&id)) {
                let name = graph.tensors[graph.inputs[input]].name.clone();
                let table = graph.tensors[node.inputs[0]].name.clone();
                return Err(ConvertError::Id { sample, name, value, table, rows });
            }
        }
    }
    Ok(())
}

pub(super) fn check_weights(graph: &Graph) -> Result<(), ConvertError> {
    for node in &graph.nodes {
        let dense = matches!(node.op, Op::Linear | Op::Conv2d(_) | Op::LayerNorm { .. } | Op::RmsNorm { .. });
        for &id in node.inputs.iter().filter(|_| dense) {
            if graph.floats(id).is_some_and(|v| v.iter().any(|x| !x.is_finite())) {
                return Err(ConvertError::Weight(graph.tensors[id].name.clone()));
            }
        }
    }
    Ok(())
}

/// The samples in the units of the float graph.
///
/// # Errors
/// [`ConvertError`] when a count differs or a value is not finite.
pub fn real_inputs(
    graph: &Graph,
    samples: &[Vec<Values>],
    normalization: Option<(f64, f64)>,
) -> Result<Vec<Vec<Data>>, ConvertError> {
    let convert = |(sample, values): (usize, &Vec<Values>)| -> Result<Vec<Data>, ConvertError> {
        graph
            .inputs
            .iter()
            .enumerate()
            .map(|(index, &id)| {
                let tensor = &graph.tensors[id];
                let given = values.get(index).map_or(0, Values::len);
                let value = values.get(index).filter(|v| v.len() == tensor.len());
                let (name, expected) = (tensor.name.clone(), tensor.len());
                let value = value.ok_or(ConvertError::Sample { sample, name: name.clone(), expected, given })?;
                let image = tensor.dtype == DataType::Float && tensor.shape.len() >= 3;
                let real = value.to_real(normalization.filter(|_| image));
                // Whether minus infinity is a mask here is for the lowering to see.
                if let Some(&value) = real.iter().find(|v| !v.is_finite() && **v != f32::NEG_INFINITY) {
                    return Err(ConvertError::NotFinite { sample, name, value });
                }
                Ok(match tensor.dtype {
                    DataType::Float => Data::Float(real),
                    DataType::Int => Data::Int(match value {
                        Values::Int(v) => v.clone(),
                        _ => real.iter().map(|&v| v as i64).collect(),
                    }),
                    DataType::Bool => Data::Bool(real.iter().map(|&v| v != 0.0).collect()),
                })
            })
            .collect()
    };
    samples.iter().enumerate().map(convert).collect()
}
