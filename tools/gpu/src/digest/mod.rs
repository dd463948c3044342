//! Digests of all operator outputs, computed where the outputs are.

use crate::error::GpuError;
use crate::layout::Layout;
use crate::step::{Params, Shader, Step, Work, shader};

static SHADER: Shader = shader!("digest", ["tensor", "reduce", "entry"], "shader.wgsl");

/// One row per operator: first word, words per sample, bytes. No bytes where a later operator completes the output.
pub fn table(layout: &Layout, capacity: u64) -> Vec<u32> {
    let row = |op: &crate::layout::Operands| {
        let tensor = op.output.tensor(capacity);
        [tensor.base, tensor.stride, if op.complete { op.output.bytes as u32 } else { 0 }]
    };
    layout.ops.iter().flat_map(row).collect()
}

/// The dispatch over all operators; `table` is the first word of the [`table`] in the weights buffer.
pub fn step(layout: &Layout, capacity: u64, table: u32) -> Result<Step, GpuError> {
    let ops = layout.ops.len();
    let params = Params::new(ops, &[layout.digests.tensor(capacity)]).with(table).with(ops as u32);
    Step::new(&SHADER, params, Work::PerSample(ops as u64), capacity)
}

#[cfg(test)]
mod tests;
