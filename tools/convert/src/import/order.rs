//! Which nodes of a node list are needed, and an order in which they can be computed.

use super::error::ImportError;
use crate::import::onnx::{GraphProto, NodeProto};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How deep subgraphs may lie in one another.
const MAX_DEPTH: usize = 16;

/// The needed nodes of a list.
#[derive(Debug)]
pub struct Order {
    /// Indices into the list; operands first, else in the order of the list.
    pub nodes: Vec<usize>,
    /// Every name that a needed node or an output reads.
    pub read: HashSet<String>,
}

/// Orders the nodes that `outputs` need.
///
/// # Errors
/// [`ImportError::Graph`] when two nodes write one name, or nodes need one another.
pub fn order(nodes: &[NodeProto], outputs: &[&str]) -> Result<Order, ImportError> {
    let producers = producers(nodes)?;
    let reads: Vec<Vec<&str>> = nodes.iter().map(|node| reads(node, 0)).collect::<Result<_, _>>()?;
    let mut needed = vec![false; nodes.len()];
    let mut pending: Vec<&str> = outputs.to_vec();
    let mut read: HashSet<String> = outputs.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = pending.pop() {
        let Some(&index) = producers.get(name) else { continue };
        if !std::mem::replace(&mut needed[index], true) {
            pending.extend(&reads[index]);
            read.extend(reads[index].iter().map(|&name| name.to_owned()));
        }
    }
    Ok(Order { nodes: sort(nodes, &needed, &reads, &producers)?, read })
}

fn producers(nodes: &[NodeProto]) -> Result<HashMap<&str, usize>, ImportError> {
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if producers.insert(name.as_str(), index).is_some() {
                return Err(ImportError::Graph(format!("`{name}` is written twice")));
            }
        }
    }
    Ok(producers)
}

/// Names that a node reads, those inside its subgraphs included.
fn reads(node: &NodeProto, depth: usize) -> Result<Vec<&str>, ImportError> {
    if depth > MAX_DEPTH {
        return Err(ImportError::Graph(format!("subgraphs are nested more than {MAX_DEPTH} deep")));
    }
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(free_names(graph, depth)?);
        }
    }
    Ok(names)
}

fn free_names(graph: &GraphProto, depth: usize) -> Result<Vec<&str>, ImportError> {
    let mut names: Vec<&str> = graph.output.iter().map(|value| value.name.as_str()).collect();
    for node in &graph.node {
        names.extend(reads(node, depth + 1)?);
    }
    Ok(names)
}

/// Kahn's algorithm, the first ready node of the list first.
fn sort(
    nodes: &[NodeProto],
    needed: &[bool],
    reads: &[Vec<&str>],
    producers: &HashMap<&str, usize>,
) -> Result<Vec<usize>, ImportError> {
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let live = || (0..nodes.len()).filter(|&index| needed[index]);
    for index in live() {
        let operands: BTreeSet<usize> = reads[index].iter().filter_map(|name| producers.get(name).copied()).collect();
        waiting[index] = operands.len();
        operands.into_iter().for_each(|operand| readers[operand].push(index));
    }
    let mut ready: BTreeSet<usize> = live().filter(|&index| waiting[index] == 0).collect();
    let mut sorted = Vec::new();
    while let Some(index) = ready.pop_first() {
        sorted.push(index);
        for &reader in &readers[index] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match live().find(|&index| waiting[index] > 0) {
        None => Ok(sorted),
        Some(index) => Err(ImportError::Graph(format!(
            "node `{}` ({}) needs its own result: the graph has a cycle",
            nodes[index].name, nodes[index].op_type
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect();
        NodeProto { input: names(inputs), output: names(outputs), op_type: "Add".into(), ..NodeProto::default() }
    }

    #[test]
    fn operands_come_first_and_unneeded_nodes_are_left_out() {
        let nodes = [node(&["b", "x"], &["y"]), node(&["x"], &["a"]), node(&["a"], &["b"]), node(&["y"], &["unused"])];
        let order = order(&nodes, &["y"]).unwrap();
        assert_eq!(order.nodes, [1, 2, 0]);
        assert!(order.read.contains("a") && !order.read.contains("unused"));
    }

    #[test]
    fn cycles_and_double_writes_are_errors() {
        let cycle = [node(&["b"], &["a"]), node(&["a"], &["b"])];
        assert!(matches!(order(&cycle, &["b"]), Err(ImportError::Graph(_))));
        let twice = [node(&["x"], &["a"]), node(&["x"], &["a"])];
        assert!(matches!(order(&twice, &["a"]), Err(ImportError::Graph(_))));
    }
}
