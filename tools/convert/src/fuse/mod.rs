//! Fusion: the same function in fewer nodes.
//!
//! [`fuse`] is a list of small rewrites, each of which looks at one node and what lies before it. They run in groups,
//! every group until it finds nothing more, and all groups again until none does. A rewrite never changes the value of a
//! graph output beyond rounding, with one exception: fake quantizations inside a fused operation are dropped, since its
//! interior has other formats.

mod activation;
mod affine;
mod attention;
mod axes;
mod cleanup;
mod conv;
mod layout;
mod linear;
mod masks;
mod norm;
mod observed;
mod one_hot;
mod rewriter;
mod softmax;
#[cfg(test)]
mod tests;
mod values;

use crate::graph::Graph;
pub use observed::observe;
use rewriter::{NodeId, Rewriter};

/// Looks at one node; true when it changed the graph.
type Rewrite = fn(&mut Rewriter, NodeId) -> bool;

const CLEANUP: &[Rewrite] = &[
    cleanup::fold_constant,
    cleanup::drop_identity,
    cleanup::simplify_movement,
    cleanup::merge_movement,
    cleanup::merge_constants,
    cleanup::lower_expand,
    cleanup::raise_fake_quant,
    cleanup::merge_duplicate,
];

/// Operations that exporters write in parts. They come before the affine folds, which would tear the parts apart.
const FUNCTIONS: &[Rewrite] = &[
    norm::multiply_first,
    norm::normalization,
    norm::batch_form,
    values::normalization,
    norm::affine,
    activation::activation,
    softmax::softmax,
    softmax::logarithm,
    masks::nan_guard,
    masks::hidden,
    masks::choice_of_zero,
    masks::factor_behind_product,
];

const LAYERS: &[Rewrite] = &[
    one_hot::lookup,
    linear::matmul_to_linear,
    affine::sink,
    linear::fold_bias,
    linear::fold_bias_of_sum,
    linear::fold_scale,
    linear::fold_input,
    conv::fold_output,
    conv::fold_input,
];

const ATTENTION: &[Rewrite] = &[attention::scale_queries, attention::attention];

/// Movement that no attention took in.
const MOVEMENT: &[Rewrite] = &[linear::raise_reshape, attention::absorb_reshape];

/// Sweeps of one group, after which the next one has its turn. Every rewrite leads towards fewer nodes or moves one
/// nearer to its place, so that real models need a handful.
const MAX_SWEEPS: usize = 32;
/// Rounds of all groups, after which the graph is taken as it is.
const MAX_ROUNDS: usize = 8;

/// Rewrites `graph` into fused operations: [`crate::graph::Op::Linear`], `LayerNorm`, `RmsNorm`, activations, `Softmax`
/// and `Attention`. Names of inputs and outputs stay, as do their shapes.
pub fn fuse(graph: Graph) -> Graph {
    let mut rewriter = Rewriter::new(graph);
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for group in [CLEANUP, FUNCTIONS, LAYERS, ATTENTION, MOVEMENT] {
            changed |= exhaust(&mut rewriter, group);
        }
        if !changed {
            break;
        }
    }
    rewriter.finish()
}

/// Applies `group` until it changes nothing; true when it changed anything.
fn exhaust(rewriter: &mut Rewriter, group: &[Rewrite]) -> bool {
    for sweep in 0..MAX_SWEEPS {
        let mut changed = false;
        for id in 0..rewriter.end() {
            for rewrite in group {
                changed |= rewrite(rewriter, id);
            }
        }
        if !changed {
            return sweep > 0;
        }
    }
    true
}
