//! What choices are judged by: the arguments of a final softmax.
//!
//! A softmax that has decided shows the noise of its argument in the few samples it is undecided about, and the best of
//! several settings would be the one that is lucky with those. The argument tells settings apart with every sample.

use crate::calibrate::Calibration;
use crate::graph::{Data, Graph, Op, TensorId};

/// Below this the argument of a softmax holds masks, which would drown its other values.
const MASKED: f32 = -500.0;

/// For every output of a graph its own tensor and the argument of the softmax it shows, if any.
pub(super) struct Judges(Vec<(TensorId, Option<TensorId>)>);

impl Judges {
    /// Of `graph`; of the published operators the outputs themselves, which ask for other forms.
    pub(super) fn of(graph: &Graph, published: bool) -> Self {
        let producers = graph.producers();
        let argument = |output: TensorId| {
            let mut id = output;
            loop {
                let node = &graph.nodes[producers[id]?];
                match node.op {
                    Op::Reshape | Op::Transpose { .. } => id = node.inputs[0],
                    Op::Softmax => {
                        let computed = producers[node.inputs[0]].is_some();
                        return (computed && !published).then_some(node.inputs[0]);
                    }
                    _ => return None,
                }
            }
        };
        Self(graph.outputs.iter().map(|&output| (output, argument(output))).collect())
    }

    /// The arguments, in the order of their outputs.
    pub(super) fn arguments(&self) -> impl Iterator<Item = TensorId> {
        self.0.iter().filter_map(|(_, argument)| *argument)
    }

    /// Those that the samples show to be no masks, by the place of their values among the outputs and arguments.
    pub(super) fn among(&self, calibration: &Calibration) -> Judged {
        let mut next = self.0.len();
        let mut judged = Vec::new();
        for (place, &(output, argument)) in self.0.iter().enumerate() {
            let (mut id, mut at) = (output, place);
            if let Some(argument) = argument {
                let stats = calibration.stats(argument);
                if stats.count > 0 && !stats.hides && stats.min > MASKED {
                    (id, at) = (argument, next);
                }
                next += 1;
            }
            // A model may show the argument as well.
            if judged.iter().all(|&(other, _)| other != id) {
                judged.push((id, at));
            }
        }
        Judged(judged)
    }
}

/// The tensors that settings are judged by, and the places of their values.
pub(super) struct Judged(Vec<(TensorId, usize)>);

impl Judged {
    /// As outputs of a graph.
    pub(super) fn outputs(&self) -> Vec<TensorId> {
        self.0.iter().map(|&(id, _)| id).collect()
    }

    /// Their values, of every sample.
    pub(super) fn values(&self, samples: &[Vec<Data>]) -> Vec<Vec<Data>> {
        let of = |values: &Vec<Data>| self.0.iter().filter_map(|&(_, place)| values.get(place).cloned()).collect();
        samples.iter().map(of).collect()
    }
}
