//! Layers of look-ups.

use super::dense::Target;
use super::{Form, LowerError, Lowering};
use crate::graph::{Lookup, Node};
use crate::quantize::multiplier::multipliers;
use shiftformer::format::Blob;
use shiftformer::ops;
use shiftformer::ops::lookup_linear::{ENTRY_ZERO, LookupLinear, MAX_WEIGHT, ONE, WORD};
use shiftformer::tensor::Dtype;

/// Largest magnitude of an entry that is rounded to; the range is symmetric.
const LARGEST_ENTRY: f64 = 127.0;

impl Lowering<'_> {
    /// Emits a layer of look-ups. Every output channel has a scale over all its tables.
    pub(super) fn lookup(&mut self, node: &Node, lookup: Lookup) -> Result<(), LowerError> {
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            Dtype::I16 | Dtype::U8 | Dtype::U16 | Dtype::I32 => (self.wide_scale(node.output), 0.0),
        };
        let target = Target { dtype, scale, zero, lut: Blob::NONE };
        let to = self.output(node.output, dtype, scale, zero);
        let x = self.get(node.inputs[0], Form::Narrow)?;
        let x = self.contiguous(&x, &node.name)?;
        let graph = self.graph;
        let (Some(tables), Some(bias)) = (graph.floats(node.inputs[1]), graph.floats(node.inputs[2])) else {
            return Err(self.unsupported(node, "tables and bias must be constants"));
        };
        let (n, padded) = (bias.len(), bias.len().next_multiple_of(WORD));
        let mut steps = vec![0f64; n];
        for row in tables.chunks_exact(n.max(1)) {
            steps.iter_mut().zip(row).for_each(|(step, &entry)| *step = step.max(f64::from(entry.abs())));
        }
        steps.iter_mut().for_each(|step| *step = step.max(1e-30) / LARGEST_ENTRY);
        let zero_entry = f64::from(ENTRY_ZERO);
        let mut entries = Vec::with_capacity(tables.len() / n.max(1) * padded);
        for row in tables.chunks_exact(n.max(1)) {
            entries.extend(row.iter().zip(&steps).map(|(&t, step)| ((f64::from(t) / step).round() + zero_entry) as u8));
            entries.resize(entries.len().next_multiple_of(WORD), ENTRY_ZERO as u8);
        }
        let units: Vec<f64> = steps.iter().map(|step| step / f64::from(MAX_WEIGHT)).collect();
        let biases: Vec<i32> = bias.iter().zip(&units).map(|(&b, unit)| (f64::from(b) / unit).round() as i32).collect();
        let ratios: Vec<f64> = units.iter().map(|unit| unit / target.scale).collect();
        let (acc_shift, factors_of_channels) = multipliers(&ratios);
        let factor = |q: i32| (lookup.factor((f64::from(q) - x.zero) * x.scale) * f64::from(ONE)).round();
        let factors: Vec<i16> = (-128..128).map(|q| factor(q) as u16 as i16).collect();
        let k = graph.shape(node.inputs[0]).last().copied().unwrap_or(1);
        let op = LookupLinear {
            rows: (x.len() / k.max(1)) as u32,
            k: k as u32,
            n: n as u32,
            chunk: lookup.chunk as u32,
            x_zero: x.zero.ceil() as i32,
            acc_shift,
            zero_point: target.zero as i32,
            factors: self.program.weights.add_i16(&factors),
            tables: self.program.weights.add(&entries),
            bias: self.program.weights.add_i32(&biases),
            multipliers: self.program.weights.add_i32(&factors_of_channels),
        };
        self.push(&node.name, ops::Op::LookupLinear(op), &[Some(x.tensor)], to);
        Ok(())
    }
}
