//! A graph under change: nodes are replaced where they stand, order is restored at the end.

use crate::graph::{Data, DataType, FakeQuant, Graph, Node, Op, TensorId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Index of a node in a [`Rewriter`].
pub(super) type NodeId = usize;

/// A graph whose producers and uses stay known while nodes come and go.
///
/// Nodes whose output nobody uses are removed at once, so that "used once" means what it says.
pub(super) struct Rewriter {
    graph: Graph,
    nodes: Vec<Option<Node>>,
    /// Place in the source model; new nodes take that of the node they stand for.
    positions: Vec<usize>,
    producers: Vec<Option<NodeId>>,
    /// Readers of each tensor, once per operand.
    uses: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
}

impl Rewriter {
    pub(super) fn new(mut graph: Graph) -> Self {
        let nodes = std::mem::take(&mut graph.nodes);
        let mut rewriter = Self {
            producers: vec![None; graph.tensors.len()],
            uses: vec![Vec::new(); graph.tensors.len()],
            is_output: vec![false; graph.tensors.len()],
            positions: (0..nodes.len()).collect(),
            nodes: Vec::with_capacity(nodes.len()),
            graph,
        };
        for &output in &rewriter.graph.outputs {
            rewriter.is_output[output] = true;
        }
        for (id, node) in nodes.into_iter().enumerate() {
            rewriter.producers[node.output] = Some(id);
            for &input in &node.inputs {
                rewriter.uses[input].push(id);
            }
            rewriter.nodes.push(Some(node));
        }
        for id in (0..rewriter.nodes.len()).rev() {
            rewriter.remove_if_unused(id);
        }
        rewriter
    }

    /// The nodes in topological order, as near to the source's order as that allows.
    pub(super) fn finish(self) -> Graph {
        let Self { mut graph, mut nodes, positions, producers, .. } = self;
        let mut waiting = vec![0usize; nodes.len()];
        let mut readers = vec![Vec::new(); nodes.len()];
        let mut ready = BinaryHeap::new();
        for (id, node) in nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            for producer in node.inputs.iter().filter_map(|&input| producers[input]) {
                waiting[id] += 1;
                readers[producer].push(id);
            }
            if waiting[id] == 0 {
                ready.push(Reverse((positions[id], id)));
            }
        }
        while let Some(Reverse((_, id))) = ready.pop() {
            graph.nodes.extend(nodes[id].take());
            for &reader in &readers[id] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.push(Reverse((positions[reader], reader)));
                }
            }
        }
        graph
    }

    /// One more than the largest [`NodeId`].
    pub(super) fn end(&self) -> NodeId {
        self.nodes.len()
    }

    /// The node, unless it has been removed.
    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)?.as_ref()
    }

    pub(super) fn producer(&self, tensor: TensorId) -> Option<&Node> {
        self.node(self.producers[tensor]?)
    }

    pub(super) fn producer_id(&self, tensor: TensorId) -> Option<NodeId> {
        self.producers[tensor]
    }

    pub(super) fn shape(&self, tensor: TensorId) -> &[usize] {
        self.graph.shape(tensor)
    }

    pub(super) fn name(&self, tensor: TensorId) -> &str {
        &self.graph.tensors[tensor].name
    }

    pub(super) fn dtype(&self, tensor: TensorId) -> DataType {
        self.graph.tensors[tensor].dtype
    }

    pub(super) fn constant(&self, tensor: TensorId) -> Option<&Data> {
        self.graph.constant(tensor)
    }

    pub(super) fn is_output(&self, tensor: TensorId) -> bool {
        self.is_output[tensor]
    }

    /// Readers, once per operand.
    pub(super) fn uses(&self, tensor: TensorId) -> &[NodeId] {
        &self.uses[tensor]
    }

    /// The only reader of a tensor that is no graph output; it may read it through several operands.
    pub(super) fn only_user(&self, tensor: TensorId) -> Option<NodeId> {
        let (&first, rest) = self.uses[tensor].split_first()?;
        (!self.is_output[tensor] && rest.iter().all(|&id| id == first)).then_some(first)
    }

    /// Whether exactly one operand of one node reads the tensor, and it is no graph output.
    pub(super) fn used_once(&self, tensor: TensorId) -> bool {
        self.uses[tensor].len() == 1 && !self.is_output[tensor]
    }

    /// A float constant with one value everywhere, behind a fake quantization too.
    pub(super) fn scalar(&self, tensor: TensorId) -> Option<f32> {
        let tensor = self.behind_fake_quant(tensor);
        match self.constant(tensor)? {
            Data::Float(values) => {
                let (&first, rest) = values.split_first()?;
                rest.iter().all(|&v| v == first).then_some(first)
            }
            _ => None,
        }
    }

    /// The operand of the fake quantizations that make `tensor`, or itself.
    pub(super) fn behind_fake_quant(&self, mut tensor: TensorId) -> TensorId {
        while let Some(Node { op: Op::FakeQuant(_), inputs, .. }) = self.producer(tensor) {
            tensor = inputs[0];
        }
        tensor
    }

    /// The producer of a tensor read once, seen through fake quantizations that are read once too.
    pub(super) fn inner(&self, tensor: TensorId) -> Option<&Node> {
        self.node(self.inner_id(tensor)?)
    }

    /// Like [`Self::inner`].
    pub(super) fn inner_id(&self, mut tensor: TensorId) -> Option<NodeId> {
        loop {
            if !self.used_once(tensor) {
                return None;
            }
            match self.producer(tensor) {
                Some(Node { op: Op::FakeQuant(_), inputs, .. }) => tensor = inputs[0],
                _ => return self.producers[tensor],
            }
        }
    }

    /// A constant, or a fake-quantized one: its values and the quantization.
    pub(super) fn weights(&self, tensor: TensorId) -> Option<(TensorId, Option<&FakeQuant>)> {
        match self.producer(tensor) {
            Some(Node { op: Op::FakeQuant(quant), inputs, .. }) => {
                self.constant(inputs[0]).map(|_| (inputs[0], Some(quant)))
            }
            _ => self.constant(tensor).map(|_| (tensor, None)),
        }
    }

    pub(super) fn add_constant(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> TensorId {
        let id = self.graph.add_constant(name, shape, Data::Float(values));
        self.extend_tensors();
        id
    }

    /// Adds a constant of any type.
    pub(super) fn add_data(&mut self, name: &str, shape: Vec<usize>, values: Data) -> TensorId {
        let id = self.graph.add_constant(name, shape, values);
        self.extend_tensors();
        id
    }

    /// Adds a float node beside `at`; returns its output.
    pub(super) fn add(&mut self, at: NodeId, name: &str, op: Op, inputs: Vec<TensorId>, shape: Vec<usize>) -> TensorId {
        self.add_typed(at, name, op, inputs, (shape, DataType::Float))
    }

    /// Adds a node beside `at` with the element type of that node's output; returns its output.
    pub(super) fn add_like(
        &mut self,
        at: NodeId,
        name: &str,
        op: Op,
        inputs: Vec<TensorId>,
        shape: Vec<usize>,
    ) -> TensorId {
        let dtype = self.node(at).map_or(DataType::Float, |node| self.dtype(node.output));
        self.add_typed(at, name, op, inputs, (shape, dtype))
    }

    /// Adds a node beside `at`; returns its output.
    pub(super) fn add_typed(
        &mut self,
        at: NodeId,
        name: &str,
        op: Op,
        inputs: Vec<TensorId>,
        (shape, dtype): (Vec<usize>, DataType),
    ) -> TensorId {
        let output = self.graph.add_tensor(name, shape, dtype);
        self.extend_tensors();
        let id = self.nodes.len();
        inputs.iter().for_each(|&input| self.uses[input].push(id));
        self.producers[output] = Some(id);
        self.positions.push(self.positions[at]);
        self.nodes.push(Some(Node { name: name.to_owned(), op, inputs, output }));
        output
    }

    /// Gives a node another operation and other operands; the output stays.
    pub(super) fn replace(&mut self, id: NodeId, op: Op, inputs: Vec<TensorId>) {
        inputs.iter().for_each(|&input| self.uses[input].push(id));
        let Some(node) = &mut self.nodes[id] else { return };
        node.op = op;
        let before = std::mem::replace(&mut node.inputs, inputs);
        self.release(id, &before);
    }

    /// Names a node after the one whose work it takes over.
    pub(super) fn rename(&mut self, id: NodeId, name: String) {
        if let Some(node) = &mut self.nodes[id] {
            node.name = name;
        }
    }

    /// Makes the output of a node a constant.
    pub(super) fn replace_by_constant(&mut self, id: NodeId, value: Data) {
        let Some(node) = self.nodes[id].take() else { return };
        self.producers[node.output] = None;
        self.graph.tensors[node.output].value = Some(std::sync::Arc::new(value));
        self.release(id, &node.inputs);
    }

    /// Lets all readers of the output of `id` read `other` of the same shape instead; false where `id` must stay,
    /// since its output is an output of the graph whose name cannot move to `other`.
    pub(super) fn bypass(&mut self, id: NodeId, other: TensorId) -> bool {
        let Some(node) = &self.nodes[id] else { return false };
        let output = node.output;
        if self.is_output[output] {
            if self.is_output[other] || self.producers[other].is_none() {
                return false;
            }
            self.graph.tensors[other].name = self.graph.tensors[output].name.clone();
            self.graph.outputs.iter_mut().filter(|o| **o == output).for_each(|o| *o = other);
            self.is_output[output] = false;
            self.is_output[other] = true;
        }
        for user in std::mem::take(&mut self.uses[output]) {
            if let Some(node) = &mut self.nodes[user] {
                node.inputs.iter_mut().filter(|i| **i == output).for_each(|i| *i = other);
                self.uses[other].push(user);
            }
        }
        self.remove_if_unused(id);
        true
    }

    fn extend_tensors(&mut self) {
        self.producers.push(None);
        self.uses.push(Vec::new());
        self.is_output.push(false);
    }

    /// Takes one use of each of `inputs` from `id`.
    fn release(&mut self, id: NodeId, inputs: &[TensorId]) {
        for &input in inputs {
            if let Some(at) = self.uses[input].iter().position(|&user| user == id) {
                self.uses[input].swap_remove(at);
            }
            if let Some(producer) = self.producers[input] {
                self.remove_if_unused(producer);
            }
        }
    }

    fn remove_if_unused(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let unused = self.node(id).is_some_and(|n| self.uses[n.output].is_empty() && !self.is_output[n.output]);
            if !unused {
                continue;
            }
            let Some(node) = self.nodes[id].take() else { continue };
            self.producers[node.output] = None;
            for input in node.inputs {
                if let Some(at) = self.uses[input].iter().position(|&user| user == id) {
                    self.uses[input].swap_remove(at);
                }
                pending.extend(self.producers[input]);
            }
        }
    }
}
