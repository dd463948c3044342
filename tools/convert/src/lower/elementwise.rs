//! Elementwise functions: tables of one 8-bit tensor, sums, products, softmax, normalization.

use super::chains::{Chain, segment_steps};
use super::view::{View, collapse, normalize};
use super::{Form, LowerError, Lowering};
use crate::graph::exec::eval_scalar;
use crate::graph::{Binary, DataType, Node, Op, TensorId, Unary};
use crate::quantize::multiplier::multiplier;
use crate::quantize::range::{TensorStats, argmin};
use shiftformer::arith::norm;
use shiftformer::format::Profile;
use shiftformer::ops;
use shiftformer::tensor::Dtype;

impl Lowering<'_> {
    /// The computed operands of an elementwise node, each once; `None` where another operand is a constant vector.
    fn computed_operands(&self, node: &Node) -> Option<Vec<TensorId>> {
        if !matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Where) {
            return None;
        }
        let mut computed: Vec<TensorId> = Vec::new();
        for &input in &node.inputs {
            let tensor = &self.graph.tensors[input];
            match (&tensor.value, tensor.len()) {
                (Some(_), 1) => {}
                (Some(_), _) => return None,
                (None, _) if computed.contains(&input) => {}
                (None, _) => computed.push(input),
            }
        }
        Some(computed)
    }

    /// The largest set of elementwise nodes ending in `last` that is a function of one tensor, and whose inner tensors
    /// nobody else reads.
    fn chain_to(&self, last: usize) -> Option<Chain> {
        let node = &self.graph.nodes[last];
        let mut operands = self.computed_operands(node)?;
        let mut nodes = vec![last];
        if self.step(last).is_some() {
            let &[base] = &operands[..] else { return None };
            return Some(Chain { base, nodes, output: node.output });
        }
        let mut found = None;
        loop {
            if let [base] = operands[..] {
                let mut nodes = nodes.clone();
                nodes.sort_unstable();
                found = Some(Chain { base, nodes, output: node.output });
            }
            // The operand that is computed last can be read by nodes of the set alone, if at all.
            let producer = |&id: &TensorId| Some((self.producers[id]?, id));
            let Some((index, id)) = operands.iter().filter_map(producer).max() else { return found };
            if self.step(index).is_some() || self.entries.contains_key(&index) {
                return found;
            }
            let inner = self.consumers[id].iter().all(|reader| nodes.contains(reader));
            let same_size = self.graph.tensors[id].len() == self.graph.tensors[node.output].len();
            let more = self.computed_operands(&self.graph.nodes[index]).filter(|_| inner && same_size);
            let Some(more) = more else { return found };
            nodes.push(index);
            operands.retain(|&operand| operand != id);
            for operand in more {
                if !operands.contains(&operand) {
                    operands.push(operand);
                }
            }
        }
    }

    /// Finds maximal chains; their inner nodes are absorbed.
    pub(super) fn find_chains(&mut self) {
        for last in (0..self.graph.nodes.len()).rev() {
            if self.absorbed[last] || self.entries.contains_key(&last) {
                continue;
            }
            let Some(chain) = self.chain_to(last) else { continue };
            for &inner in chain.nodes.iter().filter(|&&inner| inner != last) {
                self.absorbed[inner] = true;
            }
            self.chains.insert(last, chain);
        }
    }

    /// Finds the chains that need segments.
    pub(super) fn find_segments(&mut self) {
        let found = self.chains.iter().filter_map(|(&last, chain)| Some((last, self.chain_borders(chain)?)));
        self.segments = found.collect();
    }

    /// Value of a chain for one argument.
    pub(super) fn eval_chain(&self, chain: &Chain, x: f64) -> f64 {
        let mut values: Vec<(TensorId, f64)> = vec![(chain.base, x)];
        for &index in &chain.nodes {
            let node = &self.graph.nodes[index];
            let operand = |&input: &TensorId| match self.graph.constant(input) {
                Some(data) => data.to_f32().first().map_or(0.0, |&v| f64::from(v)),
                None => values.iter().rev().find(|(id, _)| *id == input).map_or(x, |&(_, value)| value),
            };
            let operands: Vec<f64> = node.inputs.iter().map(operand).collect();
            values.push((node.output, eval_scalar(&node.op, &operands)));
        }
        values.last().map_or(x, |&(_, value)| value)
    }

    /// Positive factor of a chain of multiplications and divisions by positive scalars.
    pub(super) fn scalar_factor(&self, chain: &Chain) -> Option<f64> {
        if chain.nodes.iter().any(|&index| self.step(index).is_some()) {
            return None;
        }
        let mut argument = chain.base;
        let mut factor = 1.0;
        for &index in &chain.nodes {
            let node = &self.graph.nodes[index];
            let constant = |i: usize| Some(f64::from(*self.graph.constant(*node.inputs.get(i)?)?.to_f32().first()?));
            factor *= match node.op {
                Op::Binary(Binary::Mul) if node.inputs[0] == argument => constant(1)?,
                Op::Binary(Binary::Mul) => constant(0)?,
                Op::Binary(Binary::Div) if node.inputs[0] == argument => 1.0 / constant(1)?,
                Op::Unary(Unary::Cast) => 1.0,
                _ => return None,
            };
            argument = node.output;
        }
        (factor > 0.0 && factor.is_finite()).then_some(factor)
    }

    /// Units of a chain's result in 8 bits, from the values the table can take over the argument's calibrated range.
    fn chain_units(&mut self, chain: &Chain) -> (f64, f64) {
        let asymmetric = self.asymmetric(chain.output);
        self.narrow_units(chain.output, asymmetric)
    }

    /// Factor, positive, and offset of a chain that is an affine function of whole numbers: DequantizeLinear of an input.
    fn affine_of_integers(&self, chain: &Chain) -> Option<(f64, f64)> {
        if self.graph.tensors[chain.base].dtype != DataType::Int {
            return None;
        }
        let affine = |index: &usize| match self.graph.nodes[*index].op {
            _ if self.step(*index).is_some() => false,
            Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div) => true,
            Op::Unary(Unary::Cast) => self.graph.tensors[self.graph.nodes[*index].output].dtype == DataType::Float,
            _ => false,
        };
        let values = [0.0, 1.0, 2.0, 1000.0].map(|x| self.eval_chain(chain, x));
        let (offset, factor) = (values[0], values[1] - values[0]);
        let expected = |x: f64| offset + factor * x;
        let straight = (values[2] - expected(2.0)).abs() <= 1e-6 * factor.abs()
            && (values[3] - expected(1000.0)).abs() <= 1e-4 * factor.abs();
        (chain.nodes.iter().all(affine) && straight && factor > 0.0 && factor.is_finite()).then_some((factor, offset))
    }

    /// Whole numbers in other units: by another reading of 8 bits where the zero point allows it, else requantized.
    fn dequantized_integers(&mut self, chain: &Chain, factor: f64, offset: f64) -> Result<bool, LowerError> {
        let zero_of = |view: &View| view.zero - offset / (view.scale * factor);
        if let Some(view) = self.forms[chain.base].narrow.clone() {
            let zero = zero_of(&view);
            if (zero - zero.round()).abs() < 1e-3 && (-128.0..=127.0).contains(&zero.round()) {
                let view = View { scale: view.scale * factor, zero: zero.round(), ..view };
                self.set(chain.output, view);
                return Ok(true);
            }
        }
        let Some(view) = self.forms[chain.base].wide.clone().filter(|view| zero_of(view).abs() <= 32768.0) else {
            return Ok(false);
        };
        let view = self.contiguous(&view, &self.name(chain.output))?;
        let view = View { scale: view.scale * factor, zero: zero_of(&view), ..view };
        let scale = self.wide_scale(chain.output);
        let to = self.output(chain.output, Dtype::I16, scale, 0.0);
        self.requant(&view, to);
        Ok(true)
    }

    pub(super) fn chain(&mut self, chain: &Chain) -> Result<(), LowerError> {
        if self.whole_steps(chain)? {
            return Ok(());
        }
        // Where large values only mask, the table cuts them off.
        let limits = self.limits[chain.output];
        let masks = limits.low.is_finite();
        if let Some((factor, offset)) = self.affine_of_integers(chain).filter(|(_, offset)| *offset != 0.0 && !masks)
            && self.dequantized_integers(chain, factor, offset)?
        {
            return Ok(());
        }
        if let Some(factor) = self.scalar_factor(chain) {
            let forms = self.forms[chain.base].clone();
            let shape = self.graph.shape(chain.output).to_vec();
            for view in [forms.narrow, forms.wide].into_iter().flatten() {
                let (low, _) = self.program.tensors[view.tensor].dtype.range();
                let reach = view.scale * factor * f64::from(low);
                if masks && reach < limits.low * MASK_REACH {
                    continue;
                }
                if let Some(view) = view.reshape(&shape) {
                    self.set(chain.output, View { scale: view.scale * factor, ..view });
                }
            }
            if self.forms[chain.output].narrow.is_some() || self.forms[chain.output].wide.is_some() {
                return Ok(());
            }
        }
        let last = *chain.nodes.last().unwrap_or(&0);
        if let Some(borders) = self.segments.get(&last).cloned() {
            let node = &self.graph.nodes[last];
            return self.segmented_chain(chain, node, &borders);
        }
        let linear = self.producers[chain.base]
            .filter(|&p| matches!(self.graph.nodes[p].op, Op::Linear | Op::Conv2d(_)) && self.absorbed[p]);
        if let Some(linear) = linear {
            return self.linear_with_table(linear, chain);
        }
        if self.shift_gelu(chain)? {
            return Ok(());
        }
        if self.options.wide.contains(&chain.base) {
            return self.wide_chain(chain);
        }
        let node = &self.graph.nodes[*chain.nodes.last().unwrap_or(&0)];
        let forms = &self.forms[chain.base];
        if forms.narrow.is_none() && forms.wide.is_none() && forms.ids.is_some() {
            return self.chain_of_ids(chain, node);
        }
        let input = self.chain_argument(chain)?;
        let dtype = self.preferred(chain.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.chain_units(chain),
            _ => (self.wide_scale(chain.output), 0.0),
        };
        let to = self.output(chain.output, dtype, scale, zero);
        let table = self.table(chain, &input, dtype, scale, zero);
        let op = ops::lut::Lut { len: input.len() as u32, table };
        self.push(&node.name, ops::Op::Lut(op), &[Some(input.tensor)], to);
        Ok(())
    }

    /// The 256 values of a chain, as a blob.
    pub(super) fn table(
        &mut self,
        chain: &Chain,
        input: &View,
        dtype: Dtype,
        scale: f64,
        zero: f64,
    ) -> shiftformer::format::Blob {
        let (low, high) = dtype.range();
        let integer = self.integer_table(chain, input, scale, zero).filter(|_| dtype == Dtype::I8);
        let values: Vec<i32> = match integer {
            Some(table) => table.into_iter().map(i32::from).collect(),
            None => (-128..=127)
                .map(|q| {
                    let y = self.eval_chain(chain, (f64::from(q) - input.zero) * input.scale);
                    let y = if y.is_nan() { 0.0 } else { y };
                    (y / scale + zero).round().clamp(f64::from(low), f64::from(high)) as i32
                })
                .collect(),
        };
        if dtype == Dtype::I8 {
            let values: Vec<i8> = values.iter().map(|&v| v as i8).collect();
            self.program.weights.add_i8(&values)
        } else {
            let values: Vec<i16> = values.iter().map(|&v| v as i16).collect();
            self.program.weights.add_i16(&values)
        }
    }

    /// Under the shift profile: the values of the shift-and-add function, where the chain is one of them.
    fn integer_table(&self, chain: &Chain, input: &View, scale: f64, zero: f64) -> Option<[i8; 256]> {
        if self.options.profile != Profile::Shift || chain.nodes.len() != 1 {
            return None;
        }
        crate::quantize::activation::table(&self.graph.nodes[chain.nodes[0]].op, input.scale, input.zero, scale, zero)
    }

    /// The range of a table's argument that gives the smallest error of its value.
    pub(super) fn argument_units(&mut self, chain: &Chain) -> (f64, f64) {
        if let Some(units) = self.fixed_units(chain.base) {
            return units;
        }
        let stats = self.calibration.stats(chain.base);
        let (min, max) = (f64::from(stats.min), f64::from(stats.max));
        let bins: Vec<(f64, f64)> = stats.bins().collect();
        if bins.is_empty() || min >= max {
            return self.narrow_units(chain.base, true);
        }
        // A quarter of the bins is plenty to tell ranges apart.
        let coarse: Vec<(f64, f64)> = bins
            .chunks(4)
            .map(|c| {
                let n: f64 = c.iter().map(|b| b.1).sum();
                (c.iter().map(|b| b.0 * b.1).sum::<f64>() / n, n)
            })
            .collect();
        let exact: Vec<f64> = coarse.iter().map(|&(x, _)| self.eval_chain(chain, x)).collect();
        let cost = |low: f64, high: f64| -> f64 {
            let step = (high - low) / 255.0;
            coarse
                .iter()
                .zip(&exact)
                .map(|(&(x, n), &y)| {
                    let inside = x.clamp(low, high);
                    let clipped = self.eval_chain(chain, inside) - y;
                    // The rounding noise of the argument seen through the slope of the function.
                    let slope = (self.eval_chain(chain, inside + step / 2.0)
                        - self.eval_chain(chain, inside - step / 2.0))
                        / step;
                    n * (clipped * clipped + slope * slope * step * step / 12.0)
                })
                .sum()
        };
        let cuts = || (0..20).map(|i| 1.0 - f64::from(i) / 22.0);
        let (mut low, mut high) = (min, max);
        for _ in 0..2 {
            high = argmin(cuts().map(|c| if max > 0.0 { max * c } else { max }), |&h| {
                if h > low { cost(low, h) } else { f64::MAX }
            })
            .unwrap_or(high);
            low = argmin(cuts().map(|c| if min < 0.0 { min * c } else { min }), |&l| {
                if l < high { cost(l, high) } else { f64::MAX }
            })
            .unwrap_or(low);
        }
        let scale = (high - low) / 255.0;
        let zero = (-128.0 - low / scale).round();
        self.sane(chain.base, (scale, zero.clamp(-32768.0, 32767.0)))
    }

    pub(super) fn binary(&mut self, node: &Node, kind: Binary) -> Result<(), LowerError> {
        match kind {
            Binary::Add | Binary::Sub | Binary::Mul => {}
            Binary::And | Binary::Or | Binary::Xor => return self.flags(node, kind),
            Binary::Equal if self.graph.tensors[node.inputs[0]].dtype == DataType::Bool => {
                return self.flags(node, kind);
            }
            Binary::Equal | Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                return self.compare(node, kind);
            }
            Binary::Min | Binary::Max => return self.extreme(node, kind),
            Binary::Div => return self.quotient(node),
            Binary::Mod | Binary::Pow => {
                return Err(self.unsupported(
                    node,
                    "Mod and Pow of two computed tensors; with a scalar constant they become a table",
                ));
            }
        }
        let shape = self.graph.shape(node.output).to_vec();
        let (mut first, mut second) = (node.inputs[0], node.inputs[1]);
        // The first operand may be overwritten: prefer the computed one of full shape.
        let swap = kind != Binary::Sub && (self.is_constant(first) || self.graph.shape(first) != shape);
        if swap && !(self.is_constant(second) || self.graph.shape(second) != shape) {
            std::mem::swap(&mut first, &mut second);
        }
        // A product of two whole numbers of 16 bits has no room for its rounding.
        let form = |this: &Self, id| match kind == Binary::Mul && this.fits_narrow(id) {
            true => Form::Narrow,
            false => Form::Any,
        };
        let (first_form, second_form) = (form(self, first), form(self, second));
        let (a, b) = (self.get(first, first_form)?, self.get(second, second_form)?);
        if kind == Binary::Add && self.quant_add(node, &a, &b)? {
            return Ok(());
        }
        let dtype = self.preferred(node.output);
        let (a, b) = (a.expand(&shape), b.expand(&shape));
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.stream_scale(node.output, a.scale), 0.0),
        };
        let (a, b, to) = match self.kept_order(node.output, &a) {
            // Elements stay where they are: images keep their channels last.
            Some(order) => {
                let (a, b) = (a.transpose(&order), b.transpose(&order));
                let to = self.new_tensor(&self.name(node.output), dtype, &a.shape, scale, zero, None);
                let mut back = vec![0; order.len()];
                order.iter().enumerate().for_each(|(at, &dimension)| back[dimension] = at);
                self.set(node.output, View::whole(to, &a.shape, scale, zero).transpose(&back));
                (a, b, to)
            }
            None => (a, b, self.output(node.output, dtype, scale, zero)),
        };
        if kind == Binary::Mul {
            return self.emit_product(&node.name, &a, &b, to);
        }
        let sign = if kind == Binary::Sub { -1.0 } else { 1.0 };
        self.emit_sum(&node.name, [(&a, 1.0), (&b, sign)], to)
    }

    /// The order of dimensions in which `view` is a whole tensor, where it is not the order that it has and the elements of
    /// `id`, of the same shape, are not asked for in theirs.
    fn kept_order(&self, id: TensorId, view: &View) -> Option<Vec<usize>> {
        if !self.is_permuted(view) || self.graph.outputs.contains(&id) {
            return None;
        }
        let mut order: Vec<usize> = (0..view.shape.len()).collect();
        order.sort_by_key(|&dimension| std::cmp::Reverse(view.strides[dimension]));
        Some(order)
    }

    /// Emits `a * b` into `to`; both views have its shape.
    fn emit_product(&mut self, name: &str, a: &View, b: &View, to: usize) -> Result<(), LowerError> {
        let (dims, extents) = collapse(&a.shape, &[a, b]).ok_or_else(|| LowerError::Rank(name.to_owned()))?;
        let target = &self.program.tensors[to];
        let (acc_shift, multiplier) = multiplier(a.scale * b.scale / target.scale);
        let op = ops::mul::Mul {
            dims,
            a: normalize(&dims, &extents[0]),
            b: normalize(&dims, &extents[1]),
            zero_a: a.zero.round() as i32,
            zero_b: b.zero.round() as i32,
            acc_shift,
            multiplier,
            zero_point: target.zero as i32,
        };
        self.push(name, ops::Op::Mul(op), &[Some(a.tensor), Some(b.tensor)], to);
        Ok(())
    }

    /// Emits the sum of two views with real factors into `to`; both views have its shape.
    pub(super) fn emit_sum(&mut self, name: &str, terms: [(&View, f64); 2], to: usize) -> Result<(), LowerError> {
        let [(a, factor_a), (b, factor_b)] = terms;
        let (dims, extents) = collapse(&a.shape, &[a, b]).ok_or_else(|| LowerError::Rank(name.to_owned()))?;
        let (scale, zero) = (self.program.tensors[to].scale, self.program.tensors[to].zero);
        let ranges = [a.tensor, b.tensor].map(|t| {
            let (low, high) = self.program.tensors[t].dtype.range();
            f64::from(low.abs().max(high))
        });
        let factors = [factor_a * a.scale / scale, factor_b * b.scale / scale];
        let mut shift = 30;
        let (ma, mb, bias) = loop {
            let one = 2f64.powi(shift);
            let (ma, mb) = ((factors[0] * one).round(), (factors[1] * one).round());
            let half = if shift > 0 { one / 2.0 } else { 0.0 };
            let bias = half + zero * one - a.zero * ma - b.zero * mb;
            let worst = ma.abs() * ranges[0] + mb.abs() * ranges[1] + bias.abs();
            if worst < 2_147_483_000.0 || shift == 0 {
                break (ma as i32, mb as i32, bias.round() as i32);
            }
            shift -= 1;
        };
        let (a_view, b_view) = (normalize(&dims, &extents[0]), normalize(&dims, &extents[1]));
        let op = ops::add::Add { dims, a: a_view, b: b_view, ma, mb, bias, shift: shift as u32 };
        self.push(name, ops::Op::Add(op), &[Some(a.tensor), Some(b.tensor)], to);
        Ok(())
    }

    /// A function of two flags: `a + 2 b`, then a table.
    fn flags(&mut self, node: &Node, kind: Binary) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let mut operands = Vec::new();
        for &id in &node.inputs {
            operands.push(self.get(id, Form::Narrow)?.expand(&shape));
        }
        let name = format!("{}/flags", node.name);
        let pair = self.new_tensor(&name, Dtype::I8, &shape, 1.0, 0.0, None);
        self.emit_sum(&name, [(&operands[0], 1.0), (&operands[1], 2.0)], pair)?;
        let op = Op::Binary(kind);
        let entry = |v: i32| eval_scalar(&op, &[f64::from(v & 1), f64::from((v >> 1) & 1)]) as i8;
        self.emit_table(node, pair, &shape, (-128..=127).map(|v| if (0..4).contains(&v) { entry(v) } else { 0 }))
    }

    /// A table of flags behind the 8-bit tensor `x`.
    fn emit_table(
        &mut self,
        node: &Node,
        x: usize,
        shape: &[usize],
        entries: impl Iterator<Item = i8>,
    ) -> Result<(), LowerError> {
        let table = self.program.weights.add_i8(&entries.collect::<Vec<_>>());
        let to = self.output(node.output, Dtype::I8, 1.0, 0.0);
        let op = ops::lut::Lut { len: shape.iter().product::<usize>() as u32, table };
        self.push(&node.name, ops::Op::Lut(op), &[Some(x)], to);
        Ok(())
    }

    /// A comparison of two numbers: their difference in the finer of both steps, saturated, then a table of its sign.
    fn compare(&mut self, node: &Node, kind: Binary) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let (a, b) = (self.get(node.inputs[0], Form::Any)?, self.get(node.inputs[1], Form::Any)?);
        let (a, b) = (a.expand(&shape), b.expand(&shape));
        let scale = a.scale.min(b.scale);
        let name = format!("{}/difference", node.name);
        let difference = self.new_tensor(&name, Dtype::I8, &shape, scale, 0.0, None);
        self.emit_sum(&name, [(&a, 1.0), (&b, -1.0)], difference)?;
        let op = Op::Binary(kind);
        self.emit_table(node, difference, &shape, (-128..=127).map(|v| eval_scalar(&op, &[f64::from(v), 0.0]) as i8))
    }

    /// `max(a, b) = b + relu(a - b)`, `min(a, b) = b - relu(b - a)`.
    fn extreme(&mut self, node: &Node, kind: Binary) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let (a, b) = (self.get(node.inputs[0], Form::Any)?, self.get(node.inputs[1], Form::Any)?);
        let (a, b) = (a.expand(&shape), b.expand(&shape));
        let sign = if kind == Binary::Max { 1.0 } else { -1.0 };
        // Both ends of the range saturate: what is below zero stays at the zero point, the largest excess just fits.
        let (scale, zero) = (a.scale.max(b.scale), f64::from(i16::MIN));
        let name = format!("{}/excess", node.name);
        let excess = self.new_tensor(&name, Dtype::I16, &shape, scale, zero, None);
        self.emit_sum(&name, [(&a, sign), (&b, -sign)], excess)?;
        let excess = View::whole(excess, &shape, scale, zero);
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.stream_scale(node.output, b.scale), 0.0),
        };
        let to = self.output(node.output, dtype, scale, zero);
        self.emit_sum(&node.name, [(&b, 1.0), (&excess, sign)], to)
    }

    /// A constant tensor made by the lowering, in 16 bits.
    fn wide_constant(&mut self, name: &str, shape: &[usize], values: &[f64]) -> View {
        let scale = (values.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 32767.0).max(1e-30);
        let steps: Vec<i16> = values.iter().map(|v| (v / scale).round() as i16).collect();
        let blob = self.program.weights.add_i16(&steps);
        let index = self.new_tensor(name, Dtype::I16, shape, scale, 0.0, None);
        self.program.tensors[index].constant = Some(blob);
        View::whole(index, shape, scale, 0.0)
    }

    /// `a / b` as a product with the reciprocal of `b`: of a constant, or of a tensor whose sign the samples show.
    fn quotient(&mut self, node: &Node) -> Result<(), LowerError> {
        let (dividend, divisor) = (node.inputs[0], node.inputs[1]);
        if self.graph.tensors[node.output].dtype != DataType::Float {
            return Err(self.unsupported(node, "division of whole numbers; cast them to float and the result back"));
        }
        let own = self.graph.shape(divisor).to_vec();
        let name = format!("{}/reciprocal", node.name);
        let reciprocal = if let Some(data) = self.graph.constant(divisor) {
            let values: Vec<f64> = data.to_f32().iter().map(|&v| 1.0 / f64::from(v)).collect();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(self.unsupported(node, "Div by a constant that holds 0"));
            }
            self.wide_constant(&name, &own, &values)
        } else {
            let stats = self.calibration.stats(divisor);
            let (min, max) = (f64::from(stats.min), f64::from(stats.max));
            if stats.count > 0 && min <= 0.0 && max >= 0.0 {
                return Err(self.unsupported(
                    node,
                    "Div by a computed tensor that takes the value 0 or both signs; add a small constant to it, or clip it",
                ));
            }
            let least = least_divisor(stats);
            let scale = 1.0 / (least * WIDE_LIMIT);
            let inverse = |x: f64| if x < 0.0 { 1.0 / x.min(-least) } else { 1.0 / x.max(least) };
            let borders =
                if stats.is_whole() || min <= 0.0 { None } else { self.borders(divisor, Some(least), &inverse) };
            if let Some(borders) = borders {
                let x = self.get(divisor, Form::Wide)?;
                let x = self.contiguous(&x, &node.name)?;
                let steps = |i| segment_steps(&borders, i).map(inverse).collect();
                let values: Vec<Vec<f64>> = (0..borders.len() - 1).map(steps).collect();
                let to = self.new_tensor(&name, Dtype::I16, &own, scale, 0.0, None);
                self.emit_segments(&name, &x, &borders, &values, to)?;
                let reciprocal = View::whole(to, &own, scale, 0.0);
                return self.scaled_quotient(node, dividend, &reciprocal);
            }
            let x = self.get(divisor, Form::Narrow)?;
            let x = self.contiguous(&x, &node.name)?;
            let entry = |q: i32| {
                let value = 1.0 / ((f64::from(q) - x.zero) * x.scale) / scale;
                // The step of 0 stands for the numbers next to it.
                if value.is_finite() { value.round().clamp(-32767.0, 32767.0) as i16 } else { i16::MAX }
            };
            let table: Vec<i16> = (-128..=127).map(entry).collect();
            let table = self.program.weights.add_i16(&table);
            let to = self.new_tensor(&name, Dtype::I16, &own, scale, 0.0, None);
            let op = ops::lut::Lut { len: x.len() as u32, table };
            self.push(&name, ops::Op::Lut(op), &[Some(x.tensor)], to);
            View::whole(to, &own, scale, 0.0)
        };
        self.scaled_quotient(node, dividend, &reciprocal)
    }

    fn scaled_quotient(&mut self, node: &Node, dividend: TensorId, reciprocal: &View) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let a = self.get(dividend, Form::Any)?.expand(&shape);
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let to = self.output(node.output, dtype, scale, zero);
        self.emit_product(&node.name, &a, &reciprocal.expand(&shape), to)
    }

    /// `condition ? a : b` as `condition * a + (1 - condition) * b`; a constant that masks is added instead.
    pub(super) fn select(&mut self, node: &Node) -> Result<(), LowerError> {
        let shape = self.graph.shape(node.output).to_vec();
        let dtype = self.preferred(node.output);
        let mut branches = Vec::new();
        for &id in &node.inputs[1..] {
            branches.push(self.get(id, Form::Any)?.expand(&shape));
        }
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.stream_scale(node.output, branches[0].scale), 0.0),
        };
        let mut parts = Vec::new();
        for (view, wanted) in branches.iter().zip([true, false]) {
            let name = format!("{}/{}", node.name, if wanted { "then" } else { "else" });
            let flags = self.condition(node, wanted)?.expand(&shape);
            let part = self.new_tensor(&name, dtype, &shape, scale, zero, None);
            self.emit_product(&name, view, &flags, part)?;
            parts.push(View::whole(part, &shape, scale, zero));
        }
        let to = self.output(node.output, dtype, scale, zero);
        self.emit_sum(&node.name, [(&parts[0], 1.0), (&parts[1], 1.0)], to)
    }

    /// The condition of a Where as 1 where it equals `wanted`, else 0.
    fn condition(&mut self, node: &Node, wanted: bool) -> Result<View, LowerError> {
        let id = node.inputs[0];
        let shape = self.graph.shape(id).to_vec();
        if let Some(data) = self.graph.constant(id) {
            let flags: Vec<i8> = data.to_f32().iter().map(|&v| i8::from((v != 0.0) == wanted)).collect();
            let blob = self.program.weights.add_i8(&flags);
            let index = self.new_tensor(&format!("{}/condition", node.name), Dtype::I8, &shape, 1.0, 0.0, None);
            self.program.tensors[index].constant = Some(blob);
            return Ok(View::whole(index, &shape, 1.0, 0.0));
        }
        let flags = self.get(id, Form::Narrow)?;
        if wanted {
            return Ok(flags);
        }
        let flags = self.contiguous(&flags, &node.name)?;
        let name = format!("{}/not", node.name);
        let table: Vec<i8> = (-128..=127).map(|v: i32| i8::from(f64::from(v) == flags.zero)).collect();
        let table = self.program.weights.add_i8(&table);
        let to = self.new_tensor(&name, Dtype::I8, &shape, 1.0, 0.0, None);
        let op = ops::lut::Lut { len: flags.len() as u32, table };
        self.push(&name, ops::Op::Lut(op), &[Some(flags.tensor)], to);
        Ok(View::whole(to, &shape, 1.0, 0.0))
    }

    /// Scale of a 16-bit sum that continues a stream of scale `before`: equal, or larger by a power of two.
    pub(super) fn stream_scale(&mut self, id: TensorId, before: f64) -> f64 {
        if self.graph.tensors[id].dtype == DataType::Int {
            return self.wide_integer_scale(id);
        }
        if self.calibration.fixed_wide.contains_key(&id) {
            return self.wide_scale(id);
        }
        // Where everything below a limit has one effect it saturates there, so that rows of nothing but hidden keys are even.
        if self.limits[id].low.is_finite() && self.may_be_masked(id) {
            return self.wide_scale(id);
        }
        let needed = self.useful_max(id, WIDE_LIMIT) / WIDE_LIMIT;
        if before > 1e-20 && needed > 0.0 && before > needed / 256.0 && before < needed * 64.0 {
            let steps = (needed / before).log2().ceil().max(0.0);
            before * 2f64.powf(steps)
        } else {
            self.wide_scale(id)
        }
    }

    pub(super) fn softmax(&mut self, node: &Node) -> Result<(), LowerError> {
        if self.is_ivit() && self.shiftmax(node)? {
            return Ok(());
        }
        let view = self.get(node.inputs[0], Form::Any)?;
        let view = self.contiguous(&view, &node.name)?;
        let n = view.shape.last().copied().unwrap_or(1);
        let dtype = self.preferred(node.output);
        let scale = if dtype == Dtype::I8 { 1.0 / 128.0 } else { 1.0 / 32768.0 };
        let (acc_shift, multiplier) = multiplier(view.scale * LOG2_UNITS);
        let to = self.output(node.output, dtype, scale, 0.0);
        let op = ops::softmax::Softmax { rows: (view.len() / n) as u32, n: n as u32, acc_shift, multiplier };
        self.push(&node.name, ops::Op::Softmax(op), &[Some(view.tensor)], to);
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, eps: f64, rms: bool) -> Result<(), LowerError> {
        // A zero point cancels in LayerNorm; RMSNorm squares the values as they are.
        let view = self.get(node.inputs[0], if rms { Form::Centred } else { Form::Any })?;
        let view = self.contiguous(&view, &node.name)?;
        let n = view.shape.last().copied().unwrap_or(1);
        if n as u32 > norm::MAX_WIDTH {
            return Err(self.unsupported(node, "rows of more than 4096 values"));
        }
        let affine = |index: usize, default: f32| -> Vec<f64> {
            let values = node.inputs.get(index).and_then(|&id| self.graph.floats(id));
            let values = values.map_or_else(|| vec![default; n], <[f32]>::to_vec);
            (0..n).map(|i| f64::from(values[if values.len() == 1 { 0 } else { i }])).collect()
        };
        let (gamma, beta) = (affine(1, 1.0), if rms { vec![0.0; n] } else { affine(2, 0.0) });
        if self.is_ivit() && !rms {
            return self.i_layer_norm(node, &gamma, &beta);
        }
        let dtype = self.preferred(node.output);
        let (scale, zero) = match dtype {
            Dtype::I8 => self.narrow_units(node.output, self.asymmetric(node.output)),
            _ => (self.wide_scale(node.output), 0.0),
        };
        let fraction = if dtype == Dtype::I8 { norm::FRACTION_I8 } else { norm::FRACTION_I16 } as i32;
        let limit = f64::from(i32::MAX);
        let gamma: Vec<i32> = gamma
            .iter()
            .map(|g| {
                (g / scale * 2f64.powi(32 - norm::NORMALIZED_FRACTION_BITS as i32 + fraction))
                    .round()
                    .clamp(-limit, limit) as i32
            })
            .collect();
        let half = f64::from(1 << (fraction - 1));
        let most = f64::from(1 << 30);
        let beta: Vec<i32> = beta
            .iter()
            .map(|b| ((b / scale + zero) * 2f64.powi(fraction) + half).round().clamp(-most, most) as i32)
            .collect();
        let eps = (eps / (view.scale * view.scale) * (n * n) as f64).round().min(norm::MAX_EPS as f64) as u64;
        let to = self.output(node.output, dtype, scale, zero);
        let op = ops::layer_norm::LayerNorm {
            rows: (view.len() / n) as u32,
            n: n as u32,
            rms,
            eps,
            gamma: self.program.weights.add_i32(&gamma),
            beta: self.program.weights.add_i32(&beta),
        };
        self.push(&node.name, ops::Op::LayerNorm(op), &[Some(view.tensor)], to);
        Ok(())
    }
}

/// The magnitude below which reciprocals of a tensor with values of one sign saturate.
///
/// Sums of features that are all 0 leave nothing but the epsilon of the model, and a 16-bit reciprocal that reaches so far
/// would have no steps left for the others: what is cut off and what the steps lose balance.
fn least_divisor(stats: &TensorStats) -> f64 {
    let smallest = f64::from(if stats.min > 0.0 { stats.min } else { -stats.max }).max(1e-30);
    let most = stats.abs_max();
    if stats.is_whole() || stats.histogram.is_empty() {
        return smallest;
    }
    let loss = |cut: f64| -> f64 {
        let step = 1.0 / (cut * WIDE_LIMIT);
        let of_bin = |(x, n): (f64, f64)| {
            let x = x.abs();
            n * if x < cut { (1.0 - x / cut).powi(2) } else { (step * x).powi(2) / 12.0 }
        };
        stats.bins().map(of_bin).sum()
    };
    let octaves = (most / smallest).log2().ceil().clamp(0.0, 64.0) as i32;
    argmin((0..octaves).map(|i| smallest * 2f64.powi(i)), |&cut| loss(cut)).unwrap_or(smallest)
}

/// A view that reaches this many times beyond what can matter is cut off by a table.
const MASK_REACH: f64 = 64.0;
/// Maximum `i16` a calibrated value of a stream may take before the scale doubles.
const WIDE_LIMIT: f64 = 26000.0;
/// log2 units with 8 fractional bits per natural unit.
pub(super) const LOG2_UNITS: f64 = std::f64::consts::LOG2_E * 256.0;
