//! Reshape, transpose, slice, concat, gather, reduce.

use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{Data, Node, Op, Reduce, TensorId};
use crate::quantize::multiplier::multiplier;
use shiftformer::ops;
use shiftformer::tensor::Dtype;

/// Most elements or rows that are copied one by one.
const MAX_COPIES: usize = 8;

/// Elements of the largest table that is stored in 16 bits.
const WIDE_TABLE: usize = 1 << 16;

impl Lowering<'_> {
    /// Applies a movement to a view; copies first where strides cannot express a reshape.
    pub(super) fn moved(&mut self, node: &Node, view: &View) -> Result<View, LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        Ok(match &node.op {
            Op::Transpose { perm } => view.transpose(perm),
            Op::Slice { starts, steps } => view.slice(starts, steps, &shape),
            Op::Expand => view.expand(&shape),
            _ => match view.reshape(&shape) {
                Some(view) => view,
                None => {
                    let flat = self.contiguous(view, &node.name)?;
                    flat.reshape(&shape).ok_or_else(|| LowerError::Rank(node.name.clone()))?
                }
            },
        })
    }

    pub(super) fn movement(&mut self, node: &Node) -> Result<(), LowerError> {
        let id = node.inputs[0];
        if self.is_constant(id) {
            let view = self.get(id, Form::Any)?;
            let moved = self.moved(node, &view)?;
            self.set(node.output, moved);
            return Ok(());
        }
        let forms = self.forms[id].clone();
        for view in [forms.narrow, forms.wide, forms.ids].into_iter().flatten() {
            let moved = self.moved(node, &view)?;
            self.set(node.output, moved);
        }
        Ok(())
    }

    /// Units of a tensor that is put together from parts.
    fn joint_units(&mut self, id: TensorId, dtype: Dtype, parts: &[View]) -> (f64, f64) {
        // Where the parts agree already nothing needs converting.
        if let Some(first) = parts.first()
            && parts.iter().all(|p| p.scale == first.scale && p.zero == first.zero)
        {
            return (first.scale, first.zero);
        }
        match dtype {
            Dtype::I8 => self.narrow_units(id, self.asymmetric(id)),
            _ => {
                let largest = parts.iter().map(|p| p.scale).fold(0.0, f64::max);
                (self.wide_scale(id).max(largest), 0.0)
            }
        }
    }

    /// `view` in the units of `to`, by a requantization where they differ.
    fn in_units(&mut self, view: &View, name: &str, dtype: Dtype, scale: f64, zero: f64) -> Result<View, LowerError> {
        let same = self.program.tensors[view.tensor].dtype == dtype && view.scale == scale && view.zero == zero;
        if same {
            return Ok(view.clone());
        }
        if let Some(blob) = self.program.tensors[view.tensor].constant {
            return Ok(self.requantized_constant(view, blob, dtype, scale, zero));
        }
        let flat = self.contiguous(view, name)?;
        let to = self.new_tensor(&format!("{name}/part"), dtype, &view.shape, scale, zero, None);
        self.requant(&flat, to);
        Ok(View::whole(to, &view.shape, scale, zero))
    }

    /// A constant in other units, converted here rather than on the device.
    fn requantized_constant(
        &mut self,
        view: &View,
        blob: shiftformer::format::Blob,
        dtype: Dtype,
        scale: f64,
        zero: f64,
    ) -> View {
        let old = &self.program.tensors[view.tensor];
        let bytes = &self.program.weights.bytes()[blob.offset as usize..][..blob.bytes as usize];
        let values: Vec<f64> = match old.dtype {
            Dtype::I16 => bytes.chunks_exact(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
            _ => bytes.iter().map(|&b| f64::from(b as i8)).collect(),
        };
        let (low, high) = dtype.range();
        let convert =
            |v: &f64| ((v - view.zero) * view.scale / scale + zero).round().clamp(f64::from(low), f64::from(high));
        let (name, shape, source) = (old.name.clone(), old.shape.clone(), old.source);
        let blob = if dtype == Dtype::I8 {
            let values: Vec<i8> = values.iter().map(|v| convert(v) as i8).collect();
            self.program.weights.add_i8(&values)
        } else {
            let values: Vec<i16> = values.iter().map(|v| convert(v) as i16).collect();
            self.program.weights.add_i16(&values)
        };
        let index = self.new_tensor(&name, dtype, &shape, scale, zero, source);
        self.program.tensors[index].constant = Some(blob);
        View { tensor: index, scale, zero, ..view.clone() }
    }

    pub(super) fn concat(&mut self, node: &Node, axis: usize) -> Result<(), LowerError> {
        let dtype = self.preferred(node.output);
        let form = if dtype == Dtype::I8 { Form::Narrow } else { Form::Any };
        let mut parts = Vec::new();
        for &input in &node.inputs {
            parts.push(self.get(input, form)?);
        }
        let computed: Vec<View> =
            parts.iter().filter(|p| self.program.tensors[p.tensor].constant.is_none()).cloned().collect();
        let wide_parts: Vec<View> =
            computed.iter().filter(|p| self.program.tensors[p.tensor].dtype == dtype).cloned().collect();
        let basis = if wide_parts.len() == computed.len() { wide_parts } else { Vec::new() };
        let (mut scale, mut zero) = self.joint_units(node.output, dtype, &basis);
        if dtype == Dtype::I16 && basis.len() == 1 {
            // A constant that would not fit the units of the computed part widens them.
            let needed = self.wide_scale(node.output);
            (scale, zero) = (scale.max(needed), 0.0);
        }
        if !node.inputs.iter().all(|&id| self.constant_fits(id, dtype, scale, zero)) {
            (scale, zero) = match dtype {
                Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
                _ => (self.wide_scale(node.output).max(scale), 0.0),
            };
        }
        let to = self.output(node.output, dtype, scale, zero);
        let whole = View::whole(to, self.graph.shape(node.output), scale, zero);
        let mut start = 0;
        let count = parts.len();
        for (i, part) in parts.into_iter().enumerate() {
            let part = self.in_units(&part, &node.name, dtype, scale, zero)?;
            let mut starts = vec![0; whole.shape.len()];
            starts[axis] = start;
            start += part.shape[axis];
            let target = whole.slice(&starts, &vec![1; whole.shape.len()], &part.shape);
            self.copy(&node.name, &part, &target, 0, i + 1 < count)?;
        }
        Ok(())
    }

    /// Whether the values of `id`, where it is a constant, lie within the range of the units.
    fn constant_fits(&self, id: TensorId, dtype: Dtype, scale: f64, zero: f64) -> bool {
        let Some(data) = self.graph.constant(id) else { return true };
        let limits = self.limits[id];
        data.to_f32().iter().all(|&v| fits(limits.clamp(f64::from(v)), dtype, scale, zero))
    }

    pub(super) fn pad(&mut self, node: &Node, before: &[usize], value: f64) -> Result<(), LowerError> {
        let form = if self.preferred(node.output) == Dtype::I8 { Form::Narrow } else { Form::Any };
        let mut view = self.get(node.inputs[0], form)?;
        let dtype = self.program.tensors[view.tensor].dtype;
        let value = self.limits[node.output].clamp(value);
        if !value.is_finite() {
            return Err(self.unsupported(node, "padding with an infinite value that no softmax or maximum hides"));
        }
        if !fits(value, dtype, view.scale, view.zero) {
            // The output has a range of its own.
            let (scale, zero) = match dtype {
                Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
                _ => (self.wide_scale(node.output).max(view.scale), 0.0),
            };
            view = self.in_units(&view, &node.name, dtype, scale, zero)?;
        }
        let to = self.output(node.output, dtype, view.scale, view.zero);
        let (low, high) = dtype.range();
        let fill = (value / view.scale + view.zero).round().clamp(f64::from(low), f64::from(high)) as i32;
        let blob = match dtype {
            Dtype::I8 | Dtype::U8 => self.program.weights.add_i8(&[fill as i8]),
            _ => self.program.weights.add_i16(&[fill as i16]),
        };
        let constant = self.new_tensor(&format!("{}/fill", node.name), dtype, &[1], view.scale, view.zero, None);
        self.program.tensors[constant].constant = Some(blob);
        let whole = View::whole(to, self.graph.shape(node.output), view.scale, view.zero);
        let filler = View::whole(constant, &[1], view.scale, view.zero).expand(&whole.shape);
        self.copy(&node.name, &filler, &whole, 0, true)?;
        let target = whole.slice(before, &vec![1; before.len()], &view.shape);
        self.copy(&node.name, &view, &target, 0, false)
    }

    pub(super) fn gather(&mut self, node: &Node, axis: usize) -> Result<(), LowerError> {
        let (table, indices) = (node.inputs[0], node.inputs[1]);
        if let Some(Data::Int(values)) = self.graph.constant(indices) {
            return self.gather_constant(node, axis, &values.clone());
        }
        if axis != 0 {
            return Err(self.unsupported(node, "indices computed at run time are supported along the first dimension"));
        }
        if self.compressed_lookup(node)? {
            return Ok(());
        }
        let ids = match self.forms[indices].ids.clone() {
            Some(ids) => ids,
            // Whole numbers that the model computes.
            None if self.is_integer(indices) => self.get(indices, Form::Any)?,
            None => return Err(self.unsupported(node, "indices must be integers")),
        };
        if ids.scale != 1.0 || ids.zero != 0.0 {
            return Err(self.unsupported(node, "computed indices beyond 16 bits; give them as an input of the model"));
        }
        let ids = self.contiguous(&ids, &node.name)?;
        // Small tables go along with 16 bits of what is read from them; large ones would double the file.
        let small = self.graph.tensors[table].len() <= WIDE_TABLE && self.is_constant(table);
        let form = if small { self.read_form(node.output, Form::Symmetric) } else { Form::Symmetric };
        let table = self.get(table, form)?;
        let table = self.contiguous(&table, &node.name)?;
        let dtype = self.program.tensors[table.tensor].dtype;
        let width: usize = table.shape[1..].iter().product();
        let to = self.output(node.output, dtype, table.scale, table.zero);
        let op = ops::gather::Gather { rows: table.shape[0] as u32, width: width as u32, n: ids.len() as u32 };
        self.push(&node.name, ops::Op::Gather(op), &[Some(table.tensor), Some(ids.tensor)], to);
        Ok(())
    }

    /// Known indices are slices.
    fn gather_constant(&mut self, node: &Node, axis: usize, indices: &[i64]) -> Result<(), LowerError> {
        let size = self.graph.shape(node.inputs[0])[axis] as i64;
        let indices: Vec<usize> = indices.iter().map(|&i| if i < 0 { i + size } else { i } as usize).collect();
        let view = self.get(node.inputs[0], Form::Any)?;
        let out_shape = self.graph.shape(node.output).to_vec();
        let pick = |index: usize, count: usize, step: isize| {
            let mut shape = view.shape.clone();
            shape[axis] = count;
            let (mut starts, mut steps) = (vec![0; shape.len()], vec![1; shape.len()]);
            starts[axis] = index;
            steps[axis] = step;
            view.slice(&starts, &steps, &shape)
        };
        let step = indices.get(1).map_or(1, |&b| b as isize - indices[0] as isize);
        let regular = indices.windows(2).all(|pair| pair[1] as isize - pair[0] as isize == step);
        if regular && !indices.is_empty() {
            let moved = pick(indices[0], indices.len(), step);
            let reshaped = moved.reshape(&out_shape);
            let moved = match reshaped {
                Some(view) => view,
                None => {
                    let flat = self.contiguous(&moved, &node.name)?;
                    flat.reshape(&out_shape).ok_or_else(|| LowerError::Rank(node.name.clone()))?
                }
            };
            self.set(node.output, moved);
            return Ok(());
        }
        if indices.len() > MAX_COPIES {
            return self.gather_many(node, axis, &indices, &view);
        }
        let dtype = self.program.tensors[view.tensor].dtype;
        let mut shape = view.shape.clone();
        shape[axis] = indices.len();
        let to = self.new_tensor(&node.name, dtype, &shape, view.scale, view.zero, None);
        let whole = View::whole(to, &shape, view.scale, view.zero);
        for (position, &index) in indices.iter().enumerate() {
            let from = pick(index, 1, 1);
            let mut starts = vec![0; shape.len()];
            starts[axis] = position;
            let target = whole.slice(&starts, &vec![1; shape.len()], &from.shape);
            self.copy(&node.name, &from, &target, 0, position + 1 < indices.len())?;
        }
        let moved = whole.reshape(&out_shape).ok_or_else(|| LowerError::Rank(node.name.clone()))?;
        self.set(node.output, moved);
        Ok(())
    }

    /// Many known indices without order: one lookup in a table that is computed.
    fn gather_many(&mut self, node: &Node, axis: usize, indices: &[usize], view: &View) -> Result<(), LowerError> {
        let rank = view.shape.len();
        let front: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&d| d != axis)).collect();
        let table = self.contiguous(&view.transpose(&front), &node.name)?;
        let dtype = self.program.tensors[table.tensor].dtype;
        let ids: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let blob = self.program.weights.add_i32(&ids);
        let name = format!("{}/indices", node.name);
        let ids = self.new_tensor(&name, Dtype::I32, &[indices.len()], 1.0, 0.0, None);
        self.program.tensors[ids].constant = Some(blob);
        let mut shape = table.shape.clone();
        shape[0] = indices.len();
        let to = self.new_tensor(&node.name, dtype, &shape, view.scale, view.zero, None);
        let width = table.shape[1..].iter().product::<usize>();
        let op = ops::gather::Gather { rows: table.shape[0] as u32, width: width as u32, n: indices.len() as u32 };
        self.push(&node.name, ops::Op::Gather(op), &[Some(table.tensor), Some(ids)], to);
        let mut back: Vec<usize> = (1..=axis).collect();
        back.push(0);
        back.extend(axis + 1..rank);
        let moved = View::whole(to, &shape, view.scale, view.zero).transpose(&back);
        let out = self.graph.shape(node.output).to_vec();
        let moved = match moved.reshape(&out) {
            Some(view) => view,
            None => {
                let flat = self.contiguous(&moved, &node.name)?;
                flat.reshape(&out).ok_or_else(|| LowerError::Rank(node.name.clone()))?
            }
        };
        self.set(node.output, moved);
        Ok(())
    }

    pub(super) fn reduce(&mut self, node: &Node, kind: Reduce, axes: &[usize]) -> Result<(), LowerError> {
        let view = match kind {
            Reduce::Mean | Reduce::Sum => self.get(node.inputs[0], Form::Any)?,
            Reduce::Max if self.options.wide.contains(&node.inputs[0]) => self.get(node.inputs[0], Form::Wide)?,
            Reduce::Max | Reduce::Min
                if self.forms[node.inputs[0]].narrow.is_some()
                    || !self.is_integer(node.inputs[0])
                    || self.fits_narrow(node.inputs[0]) =>
            {
                self.get(node.inputs[0], Form::Narrow)?
            }
            Reduce::Max | Reduce::Min => {
                return Err(self.unsupported(node, "ReduceMax and ReduceMin of whole numbers beyond 8 bits"));
            }
            Reduce::Prod => {
                return Err(
                    self.unsupported(node, "ReduceProd of computed values; ReduceSum of their logarithms is near")
                );
            }
        };
        let rank = view.shape.len();
        // Bring the reduced dimensions together, where they are not neighbours.
        let kept: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
        let first = axes.first().copied().unwrap_or(rank);
        let neighbours = axes.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let (view, outer) = if neighbours {
            (view, first)
        } else {
            let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
            (view.transpose(&perm), kept.len())
        };
        let view = self.contiguous(&view, &node.name)?;
        let r: usize = view.shape[outer..outer + axes.len()].iter().product();
        let (outer, inner) =
            (view.shape[..outer].iter().product::<usize>(), view.shape[outer + axes.len()..].iter().product::<usize>());
        if matches!(kind, Reduce::Max | Reduce::Min) {
            return self.reduce_to_extreme(node, kind, &view, [outer, r, inner]);
        }
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let factor = if kind == Reduce::Mean { 1.0 / r as f64 } else { 1.0 };
        let (acc_shift, multiplier) = multiplier(view.scale * factor / scale);
        let to = self.output(node.output, dtype, scale, zero);
        let op = ops::reduce_mean::ReduceMean {
            outer: outer as u32,
            r: r as u32,
            inner: inner as u32,
            bias: -(view.zero * r as f64).round() as i32,
            acc_shift,
            multiplier,
            zero_point: zero as i32,
        };
        self.push(&node.name, ops::Op::ReduceMean(op), &[Some(view.tensor)], to);
        Ok(())
    }

    /// The maximum or minimum over the middle dimension of `[outer, r, inner]`, as max pooling of images `[r, inner]`.
    fn reduce_to_extreme(
        &mut self,
        node: &Node,
        kind: Reduce,
        view: &View,
        [outer, r, inner]: [usize; 3],
    ) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        // The minimum is the maximum of `-1 - q`, which stays within 8 bits.
        let min = kind == Reduce::Min;
        let x = if min { self.complement(&node.name, view) } else { view.clone() };
        let window = ops::conv2d::Window {
            in_h: r as u32,
            in_w: inner as u32,
            out_h: 1,
            out_w: inner as u32,
            kernel_h: r as u32,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            pad_top: 0,
            pad_left: 0,
            dilation_h: 1,
            dilation_w: 1,
            channel_stride: (r * inner) as u32,
            row_stride: inner as u32,
            column_stride: 1,
            pad_value: 0,
        };
        let channels = outer as u32;
        let multipliers = shiftformer::format::Blob::NONE;
        let (dtype, op) = match self.is_wide(&x) {
            true => (Dtype::I16, ops::Op::MaxPoolI16(ops::max_pool_i16::MaxPoolI16 { window, channels })),
            false => {
                let op = ops::pool::Pool2d { window, channels, acc_shift: 0, zero_point: 0, multipliers };
                (Dtype::I8, ops::Op::Pool2d(op))
            }
        };
        // The operator writes channels last.
        let pooled = self.new_tensor(&node.name, dtype, &[inner, outer], x.scale, x.zero, None);
        self.push(&node.name, op, &[Some(x.tensor)], pooled);
        let pooled = View::whole(pooled, &[inner, outer], x.scale, x.zero);
        let pooled = if min { self.complement(&format!("{}/pooled", node.name), &pooled) } else { pooled };
        let turned = pooled.transpose(&[1, 0]);
        let result = match turned.reshape(&shape) {
            Some(view) => view,
            None => self
                .contiguous(&turned, &node.name)?
                .reshape(&shape)
                .ok_or_else(|| LowerError::Rank(node.name.clone()))?,
        };
        self.set(node.output, result);
        Ok(())
    }

    /// `-1 - q` of a whole 8-bit tensor: the negative values, up to the step between -128 and 127.
    fn complement(&mut self, name: &str, x: &View) -> View {
        let name = format!("{name}/complement");
        let table: Vec<i8> = (-128..=127).map(|q: i32| (-1 - q) as i8).collect();
        let table = self.program.weights.add_i8(&table);
        let zero = -1.0 - x.zero;
        let to = self.new_tensor(&name, Dtype::I8, &x.shape, x.scale, zero, None);
        let op = ops::lut::Lut { len: x.len() as u32, table };
        self.push(&name, ops::Op::Lut(op), &[Some(x.tensor)], to);
        View::whole(to, &x.shape, x.scale, zero)
    }
}

/// Whether `value` lies within the range of the units, rounding allowed.
fn fits(value: f64, dtype: Dtype, scale: f64, zero: f64) -> bool {
    let (low, high) = dtype.range();
    let q = value / scale + zero;
    q >= f64::from(low) - 0.5 && q <= f64::from(high) + 0.5
}
