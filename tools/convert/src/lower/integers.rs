//! Whole numbers: token ids, lengths, positions, flags, raw samples. They stay exact wherever 16 bits hold them.

use super::chains::Chain;
use super::view::View;
use super::{Form, LowerError, Lowering};
use crate::graph::{DataType, Node, Op, TensorId};
use shiftformer::ops;
use shiftformer::tensor::Dtype;

impl Lowering<'_> {
    /// Whether `id` has an integer type.
    pub(super) fn is_integer(&self, id: TensorId) -> bool {
        self.graph.tensors[id].dtype == DataType::Int
    }

    /// Whether the whole numbers of `id` are 0, 1 and perhaps -1: masks.
    pub(super) fn is_flag(&self, id: TensorId) -> bool {
        let stats = self.calibration.stats(id);
        stats.count > 0 && stats.min >= -1.0 && stats.max <= 1.0
    }

    /// Whether `id` holds whole numbers that 8 bits hold exactly.
    pub(super) fn fits_narrow(&self, id: TensorId) -> bool {
        let (min, max) = self.useful_range(id);
        self.is_integer(id) && !self.is_constant(id) && min >= -128.0 && max <= 127.0
    }

    /// Scale and zero point of whole numbers in 8 bits: steps of 1 where the range allows it.
    pub(super) fn narrow_integer_units(&self, id: TensorId) -> (f64, f64) {
        let (min, max) = self.useful_range(id);
        if min >= -128.0 && max <= 127.0 {
            return (1.0, 0.0);
        }
        if !self.asymmetric(id) {
            return ((max.max(-min) / 127.0).max(1.0), 0.0);
        }
        let scale = ((max.max(0.0) - min.min(0.0)) / 255.0).max(1.0);
        (scale, (-128.0 - min.min(0.0) / scale).round().clamp(-128.0, 127.0))
    }

    /// Scale of whole numbers in 16 bits.
    pub(super) fn wide_integer_scale(&self, id: TensorId) -> f64 {
        let (min, max) = self.useful_range(id);
        (max.max(-min) / 32767.0).max(1.0)
    }

    /// Element type, scale and zero point of an integer input with values in `range`, as far as its type tells.
    pub(super) fn integer_input(&mut self, id: TensorId, range: Option<(i64, i64)>) -> (Dtype, f64, f64) {
        match range {
            Some((low, high)) if low >= -128 && high <= 127 => return (Dtype::I8, 1.0, 0.0),
            Some((low, high)) if low >= 0 && high <= 255 => return (Dtype::I8, 1.0, -128.0),
            Some((low, high)) if low >= -32768 && high <= 32767 => return (Dtype::I16, 1.0, 0.0),
            _ => {}
        }
        if self.graph.tensors[id].dtype == DataType::Bool || self.is_flag(id) {
            return (Dtype::I8, 1.0, 0.0);
        }
        let scale = self.wide_integer_scale(id);
        if scale > 1.0 {
            let (name, most) = (self.name(id), 32767.0 * scale);
            self.notes
                .push(format!("`{name}` holds numbers up to {most:.0}: in 16 bits they go in steps of {scale:.2}"));
        }
        (Dtype::I16, scale, 0.0)
    }

    /// Rows of the smallest table that the ids in `id` are looked up in, movement in between allowed.
    fn id_rows(&self, id: TensorId) -> Option<usize> {
        let of_reader = |&reader: &usize| {
            let node = self.graph.nodes.get(reader)?;
            match &node.op {
                Op::Gather { axis: 0 } if node.inputs[1] == id => self.graph.shape(node.inputs[0]).first().copied(),
                Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand => self.id_rows(node.output),
                _ => None,
            }
        };
        self.consumers[id].iter().filter_map(of_reader).min()
    }

    /// The rows of [`id_rows`](Self::id_rows) of the input that the ids in `id` come from.
    fn rows_of_source(&self, id: TensorId) -> Option<usize> {
        let own = self.id_rows(id);
        let moved = |index: usize| {
            let node = &self.graph.nodes[index];
            matches!(node.op, Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand)
                .then(|| self.rows_of_source(node.inputs[0]))
                .flatten()
        };
        own.into_iter().chain(self.producers[id].and_then(moved)).min()
    }

    /// A function of ids as a table with a row for every id: `value` of each, in units of `scale`.
    fn table_of_ids(
        &mut self,
        id: TensorId,
        name: &str,
        output: TensorId,
        (dtype, scale): (Dtype, f64),
        value: &dyn Fn(&Self, f64) -> f64,
    ) -> Result<(), LowerError> {
        let fail = |why: String| LowerError::Unsupported(vec![format!("`{name}`: {why}")]);
        let rows = self.rows_of_source(id).ok_or_else(|| fail("ids that no table is indexed with".to_owned()))?;
        if self.calibration.stats(id).min < 0.0 {
            return Err(fail(format!(
                "`{}` holds negative ids, which integer arithmetic here does not take",
                self.name(id)
            )));
        }
        let ids = self.forms[id].ids.clone().ok_or_else(|| fail("its ids are not at hand".to_owned()))?;
        let ids = self.contiguous(&ids, name)?;
        let (low, high) = dtype.range();
        let entry =
            |row: usize| (value(self, row as f64) / scale).round().clamp(f64::from(low), f64::from(high)) as i32;
        let entries: Vec<i32> = (0..rows).map(entry).collect();
        let blob = if dtype == Dtype::I8 {
            self.program.weights.add_i8(&entries.iter().map(|&v| v as i8).collect::<Vec<_>>())
        } else {
            self.program.weights.add_i16(&entries.iter().map(|&v| v as i16).collect::<Vec<_>>())
        };
        let table = self.new_tensor(&format!("{name}/table"), dtype, &[rows, 1], scale, 0.0, None);
        self.program.tensors[table].constant = Some(blob);
        let to = self.output(output, dtype, scale, 0.0);
        let op = ops::gather::Gather { rows: rows as u32, width: 1, n: ids.len() as u32 };
        self.push(name, ops::Op::Gather(op), &[Some(table), Some(ids.tensor)], to);
        Ok(())
    }

    /// Ids as numbers to compute with.
    pub(super) fn numbers_of_ids(&mut self, id: TensorId) -> Result<(), LowerError> {
        let rows = self.rows_of_source(id).unwrap_or(0);
        if rows > 1 << 15 {
            return Err(LowerError::Unsupported(vec![format!(
                "`{}`: ids of a table of {rows} rows exceed the 16 bits of computed ids",
                self.name(id)
            )]));
        }
        let name = format!("{}/number", self.name(id));
        self.table_of_ids(id, &name, id, (Dtype::I16, 1.0), &|_, row| row)
    }

    /// A chain over ids: one table from id to value.
    pub(super) fn chain_of_ids(&mut self, chain: &Chain, node: &Node) -> Result<(), LowerError> {
        let dtype = self.preferred(chain.output);
        let scale = match dtype {
            Dtype::I8 => self.narrow_units(chain.output, false).0,
            _ => self.wide_scale(chain.output),
        };
        self.table_of_ids(chain.base, &node.name, chain.output, (dtype, scale), &|this, row| {
            this.eval_chain(chain, row)
        })
    }

    /// The argument of a chain that is a function of steps (comparisons, equalities) over a 16-bit tensor: the 256 steps
    /// around its changes, beyond which it is constant. `None` where the chain is no such function.
    pub(super) fn step_argument(&mut self, chain: &Chain) -> Result<Option<View>, LowerError> {
        let Some(wide) = self.forms[chain.base].wide.clone().filter(|view| view.zero == 0.0) else { return Ok(None) };
        let value = |q: i32| self.eval_chain(chain, f64::from(q) * wide.scale);
        let (low, high) = Dtype::I16.range();
        // Constant towards both ends: bisection would need a monotone function, so look at every step.
        let mut before = value(low);
        let (mut first, mut last) = (None, low);
        for q in low + 1..=high {
            let now = value(q);
            if now.to_bits() != before.to_bits() {
                first = first.or(Some(q));
                last = q;
                if last - first.unwrap_or(q) > 254 {
                    return Ok(None);
                }
            }
            before = now;
        }
        // The table's entries stand for centre - 128 to centre + 127.
        let centre = first.map_or(0, |first| (first - 1 + last) / 2 + 1).clamp(low, high);
        let source = self.contiguous(&wide, &self.name(chain.base))?;
        let shape = source.shape.clone();
        let zero = -f64::from(centre);
        let to = self.new_tensor(&format!("{}/near", self.name(chain.base)), Dtype::I8, &shape, wide.scale, zero, None);
        let op = ops::requant::Requant {
            len: source.len() as u32,
            zero_in: centre,
            acc_shift: 0,
            multiplier: 0,
            zero_out: 0,
        };
        let (acc_shift, multiplier) = crate::quantize::multiplier::multiplier(1.0);
        let op = ops::requant::Requant { acc_shift, multiplier, ..op };
        let name = format!("{}/near", self.name(chain.base));
        self.push(&name, ops::Op::Requant(op), &[Some(source.tensor)], to);
        Ok(Some(View::whole(to, &shape, wide.scale, zero)))
    }

    /// The 8-bit argument of a chain.
    pub(super) fn chain_argument(&mut self, chain: &Chain) -> Result<View, LowerError> {
        if let Some(near) = self.step_argument(chain)? {
            return Ok(near);
        }
        let view = self.get(chain.base, Form::Narrow)?;
        self.contiguous(&view, &self.name(chain.base))
    }
}
