//! Inputs in 32 bits: raw sensors, each channel with a size of its own, normalized by the first operator.

use super::view::View;
use super::{LowerError, Lowering};
use crate::graph::{Binary, Node, Op, TensorId};
use shiftformer::ops::{self, dyadic_requant::DyadicRequant};
use shiftformer::tensor::Dtype;

/// Fractional bits of the offsets.
const OFFSET_BITS: i32 = 8;

/// `ratio` as `multiplier / 2^shift`.
fn dyadic(ratio: f64) -> [i32; 2] {
    let mut shift = 30 - ratio.abs().max(1e-300).log2().floor() as i32;
    // A mantissa that rounds up to 2^31 has one bit less.
    if (ratio.abs() * 2f64.powi(shift)).round() >= 2_147_483_648.0 {
        shift -= 1;
    }
    let shift = shift.clamp(0, 63);
    let most = f64::from(i32::MAX);
    [(ratio * 2f64.powi(shift)).round().clamp(-most, most) as i32, shift]
}

/// The dimension of `shape` along which a constant of shape `own` changes, `None` where it changes along several.
fn changing_dimension(shape: &[usize], own: &[usize]) -> Option<usize> {
    let offset = shape.len().checked_sub(own.len())?;
    let mut changing = own.iter().enumerate().filter(|&(_, &d)| d != 1).map(|(d, _)| d + offset);
    let first = changing.next();
    changing.next().is_none().then(|| first.unwrap_or(shape.len().saturating_sub(1)))
}

/// The permutation of `rank` dimensions that brings `axis` behind the others, and the one that undoes it.
fn to_end(rank: usize, axis: usize) -> (Vec<usize>, Vec<usize>) {
    let perm: Vec<usize> = (0..rank).filter(|&d| d != axis).chain([axis]).collect();
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(i, &p)| back[p] = i);
    (perm, back)
}

impl Lowering<'_> {
    /// Finds the products and sums at the entry of the inputs in 32 bits: the sum is computed with the product.
    pub(super) fn find_entries(&mut self) {
        let of_input = |this: &Self, mut id: TensorId| loop {
            match this.producers[id].map(|index| &this.graph.nodes[index]) {
                Some(Node { op: Op::Reshape | Op::Transpose { .. }, inputs, .. }) => id = inputs[0],
                Some(_) => return false,
                None => return this.graph.raw_inputs.contains_key(&id),
            }
        };
        for (product, node) in self.graph.nodes.iter().enumerate() {
            let scales = node.op == Op::Binary(Binary::Mul) && self.is_constant(node.inputs[1]);
            if !scales || !of_input(self, node.inputs[0]) {
                continue;
            }
            if let Some(sum) = self.only_consumer(node.output) {
                self.entries.insert(sum, product);
                self.absorbed[product] = true;
            }
        }
    }

    /// `x * factor + offset` of the input `x` in 32 bits, as one requantization per channel with the offset as its second
    /// branch.
    pub(super) fn entry(&mut self, product: usize, sum: usize) -> Result<(), LowerError> {
        let (product, node) = (&self.graph.nodes[product], &self.graph.nodes[sum]);
        let (x, out) = (product.inputs[0], node.output);
        let constant =
            |id: TensorId| self.graph.constant(id).map(|data| (self.graph.shape(id).to_vec(), data.to_f32()));
        let (Some(view), Some(factor), Some(offset)) =
            (self.forms[x].ids.clone(), constant(product.inputs[1]), constant(node.inputs[1]))
        else {
            return Err(self.unsupported(node, "an input in 32 bits takes constant factors and offsets"));
        };
        let shape = self.graph.shape(out).to_vec();
        let dtype = self.preferred(out);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(out, self.asymmetric(out)),
            _ => (self.wide_scale(out), 0.0),
        };
        let axis = changing_dimension(&shape, &factor.0).filter(|&axis| {
            factor.1.len() == 1 || offset.1.len() == 1 || changing_dimension(&shape, &offset.0) == Some(axis)
        });
        // Without a common axis every element is a column.
        let (perm, back) = match axis.filter(|_| !shape.is_empty()) {
            Some(axis) => to_end(shape.len(), axis),
            None => ((0..shape.len()).collect(), (0..shape.len()).collect()),
        };
        let turned: Vec<usize> = perm.iter().map(|&d: &usize| shape[d]).collect();
        let view = self.contiguous(&view.transpose(&perm), &node.name)?;
        let len: usize = shape.iter().product();
        let n = if axis.is_some() { turned.last().copied().unwrap_or(1) } else { len };
        // Constants in the order of the columns: one, one per index of the axis, or one per element.
        let column = |values: &[f32], c: usize| f64::from(values[if values.len() == n { c } else { 0 }]);
        let ratios: Vec<i32> = (0..n).flat_map(|c| dyadic(column(&factor.1, c) * view.scale / scale)).collect();
        let steps = |c: usize| {
            let steps = (column(&offset.1, c) / scale + zero) * 2f64.powi(OFFSET_BITS);
            steps.round().clamp(-f64::from(1 << 30), f64::from(1 << 30)) as i32
        };
        let row: Vec<i32> = (0..n).map(steps).collect();
        let offsets: Vec<i32> = row.iter().copied().cycle().take(len).collect();
        let blob = self.program.weights.add_i32(&offsets);
        let name = format!("{}/offset", node.name);
        let offsets = self.new_tensor(&name, Dtype::I32, &turned, scale / 2f64.powi(OFFSET_BITS), 0.0, None);
        self.program.tensors[offsets].constant = Some(blob);
        let to = self.new_tensor(&self.name(out), dtype, &turned, scale, zero, Some(out));
        self.set(out, View::whole(to, &turned, scale, zero).transpose(&back));
        let op = DyadicRequant {
            rows: (len / n) as u32,
            n: n as u32,
            ratios: self.program.weights.add_i32(&ratios),
            identity_multiplier: 1 << 30,
            identity_shift: (30 + OFFSET_BITS) as u32,
        };
        self.push(&node.name, ops::Op::DyadicRequant(op), &[Some(view.tensor), Some(offsets)], to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::dyadic;

    #[test]
    fn ratios_keep_31_bits() {
        for ratio in [1.0, -0.75, 3.0e-9, 1234.5, 0.999_999_999_9] {
            let [m, shift] = dyadic(ratio);
            let back = f64::from(m) / 2f64.powi(shift);
            assert!((back / ratio - 1.0).abs() < 2f64.powi(-29), "{ratio}: {m} {shift}");
        }
    }
}
