//! Compressed embedding tables, and indices that are the quotient or the remainder of ids.

use super::{LowerError, Lowering};
use crate::graph::exec::eval_scalar;
use crate::graph::{Binary, Data, DataType, Node, Op, TensorId};
use crate::quantize::multiplier::multiplier;
use crate::quantize::tables::{Embeddings, Table, compress};
use shiftformer::ops;
use shiftformer::ops::embedding::{BOOK, IdPart, TableFormat};
use shiftformer::tensor::Dtype;

/// Indices that are a part of ids: a table is trained on quotients or remainders (arXiv 1909.02107).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartOfIds {
    /// The ids.
    pub base: TensorId,
    part: IdPart,
    divisor: u32,
    /// Ids are below it.
    limit: u32,
}

/// Arguments at which a function is compared one by one, and how many beyond them.
const COMPARED: u64 = 1 << 13;
const SPOTS: u64 = 2048;
/// Remainders are compared up to here: as far as `f32`, in which models compute them, holds whole numbers.
const REMAINDERS: u64 = 1 << 24;

impl Lowering<'_> {
    /// Finds the lookups whose indices are quotients or remainders of ids; the nodes that compute those alone are absorbed.
    pub(super) fn find_parts_of_ids(&mut self) {
        let mut inner: Vec<usize> = Vec::new();
        for node in &self.graph.nodes {
            let (Op::Gather { axis: 0 }, &[table, indices]) = (&node.op, &node.inputs[..]) else { continue };
            if self.is_table(table)
                && let Some((part, nodes)) = self.part_of_ids(indices, self.graph.shape(table)[0])
            {
                self.parts_of_ids.insert(indices, part);
                inner.extend(nodes);
            }
        }
        inner.sort_unstable();
        inner.dedup();
        for index in inner.into_iter().rev() {
            let output = self.graph.nodes[index].output;
            let gathers = |reader: usize| {
                let node = self.graph.nodes.get(reader);
                let of_table = |node: &Node| matches!(node.op, Op::Gather { axis: 0 }) && self.is_table(node.inputs[0]);
                node.is_some_and(of_table) && self.parts_of_ids.contains_key(&output)
            };
            let read = |&reader: &usize| gathers(reader) || self.absorbed.get(reader).copied().unwrap_or(false);
            if self.consumers[output].iter().all(read) {
                self.absorbed[index] = true;
            }
        }
    }

    fn is_table(&self, id: TensorId) -> bool {
        let tensor = &self.graph.tensors[id];
        tensor.value.is_some() && tensor.dtype == DataType::Float && !tensor.shape.is_empty()
    }

    /// `indices` into a table of `rows` rows as a part of ids, and the nodes that compute it.
    fn part_of_ids(&self, indices: TensorId, rows: usize) -> Option<(PartOfIds, Vec<usize>)> {
        let (mut base, mut nodes, mut pending) = (None, Vec::new(), vec![indices]);
        while let Some(id) = pending.pop() {
            let tensor = &self.graph.tensors[id];
            let producer = self.producers[id].filter(|&index| {
                let op = &self.graph.nodes[index].op;
                matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Reshape)
            });
            match (&tensor.value, producer) {
                (Some(value), _) if value.len() == 1 => {}
                (Some(_), _) => return None,
                (None, Some(index)) if nodes.contains(&index) => {}
                (None, Some(index)) => {
                    nodes.push(index);
                    pending.extend(&self.graph.nodes[index].inputs);
                }
                (None, None) if tensor.dtype == DataType::Int && base.is_none_or(|base| base == id) => base = Some(id),
                (None, None) => return None,
            }
        }
        let base = base?;
        nodes.sort_unstable();
        let value = |x: u64| self.whole_number(&nodes, base, x as f64);
        let rows = u64::try_from(rows).ok()?;
        let equal = |limit: u64, right: &dyn Fn(u64) -> u64| {
            let spots =
                (0..SPOTS).map(|i| u64::try_from(u128::from(limit) * u128::from(i) / u128::from(SPOTS)).unwrap_or(0));
            (0..limit.min(COMPARED)).chain(spots).all(|x| value(x) == right(x) as f64)
        };
        if value(0) != 0.0 {
            return None;
        }
        let first = |wanted: f64| (1..=COMPARED).find(|&x| value(x) == wanted);
        let (part, divisor, limit) = if value(1) == 0.0 {
            let divisor = first(1.0)?;
            let limit = rows.checked_mul(divisor)?;
            equal(limit, &|x| x / divisor).then_some((IdPart::Quotient, divisor, limit))?
        } else {
            let divisor = first(0.0).filter(|&divisor| divisor <= rows)?;
            equal(REMAINDERS, &|x| x % divisor).then_some((IdPart::Remainder, divisor, REMAINDERS))?
        };
        let (divisor, limit) = (u32::try_from(divisor).ok()?, u32::try_from(limit).ok()?);
        Some((PartOfIds { base, part, divisor, limit: limit.min(i32::MAX as u32) }, nodes))
    }

    /// What `nodes` make of the whole number `x` in `base`.
    fn whole_number(&self, nodes: &[usize], base: TensorId, x: f64) -> f64 {
        let mut values: Vec<(TensorId, f64)> = vec![(base, x)];
        for &index in nodes {
            let node = &self.graph.nodes[index];
            let operand = |&input: &TensorId| match self.graph.constant(input) {
                Some(data) => data.to_f32().first().map_or(0.0, |&v| f64::from(v)),
                None => values.iter().rev().find(|(id, _)| *id == input).map_or(f64::NAN, |&(_, value)| value),
            };
            let operands: Vec<f64> = node.inputs.iter().map(operand).collect();
            let whole = self.graph.tensors[node.output].dtype == DataType::Int;
            let value = match node.op {
                Op::Reshape => operands[0],
                // Whole numbers are divided towards zero.
                Op::Binary(Binary::Div) if whole => eval_scalar(&node.op, &operands).trunc(),
                _ => eval_scalar(&node.op, &operands),
            };
            values.push((node.output, value));
        }
        values.last().map_or(x, |&(_, value)| value)
    }

    /// Lowers a lookup in a table that is stored compressed; `false` where it is not.
    pub(super) fn compressed_lookup(&mut self, node: &Node) -> Result<bool, LowerError> {
        let (table, indices) = (node.inputs[0], node.inputs[1]);
        if !self.is_table(table) {
            return Ok(false);
        }
        let shape = self.graph.shape(table).to_vec();
        let (rows, width) = (shape[0], shape[1..].iter().product::<usize>());
        let part = self.parts_of_ids.get(&indices).copied();
        let Some((format, parts)) = self.table_format(rows, width, part.is_some()) else { return Ok(false) };
        let base = part.map_or(indices, |part| part.base);
        let Some(ids) = self.forms[base].ids.clone() else {
            if part.is_some() {
                return Err(self.unsupported(node, "its indices are computed from numbers that are no input"));
            }
            return Ok(false);
        };
        let ids = self.contiguous(&ids, &node.name)?;
        let (table, unknown) =
            (self.compressed(table, width, format, parts), self.unsupported(node, "the table has no values"));
        let table = table.ok_or(unknown)?;
        let calibrated = self.calibration.stats(node.output).count > 0;
        let (dtype, scale) = match self.preferred(node.output) {
            Dtype::I8 if calibrated => (Dtype::I8, self.narrow_units(node.output, false).0),
            Dtype::I8 => (Dtype::I8, (table.abs_max / 127.0).max(1e-30)),
            // Rows that no sample looks up are in the table too.
            _ => (Dtype::I16, (table.abs_max / 32767.0).max(1e-30)),
        };
        let (acc_shift, multiplier) = multiplier(table.unit / scale);
        let to = self.output(node.output, dtype, scale, 0.0);
        let weights = &mut self.program.weights;
        let scales: Vec<u8> = table.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let op = ops::embedding::Embedding {
            rows: rows as u32,
            width: width as u32,
            n: ids.len() as u32,
            format,
            parts: parts as u32,
            part: part.map_or(IdPart::Whole, |part| part.part),
            divisor: part.map_or(1, |part| part.divisor),
            limit: part.map_or(rows as u32, |part| part.limit),
            acc_shift,
            multiplier,
            codes: weights.add(&table.codes),
            books: weights.add_i8(&table.books),
            scales: weights.add(&scales),
        };
        self.push(&node.name, ops::Op::Embedding(op), &[Some(ids.tensor)], to);
        self.notes.push(format!(
            "`{}` ({rows} x {width}) takes {} bytes as {}, {:.1} times fewer than with 8 bits each; SQNR of its elements {:.1} dB",
            self.name(node.inputs[0]),
            table.bytes(),
            match format {
                TableFormat::I8 => "rows of 8 bits".to_owned(),
                TableFormat::I4 => "rows of 4 bits".to_owned(),
                TableFormat::Product => format!("{parts} bytes a row and codebooks"),
            },
            (rows * width) as f64 / table.bytes() as f64,
            table.sqnr_db,
        ));
        Ok(true)
    }

    /// How a table is stored, and parts of a row; `None` where it is not compressed.
    fn table_format(&self, rows: usize, width: usize, has_part: bool) -> Option<(TableFormat, usize)> {
        let eight = Some((TableFormat::I8, 0));
        let smaller = |bytes: usize| bytes < rows * width;
        let chosen = match self.options.embeddings {
            Embeddings::Plain | Embeddings::QuotientRemainder => None,
            Embeddings::Int8 => eight,
            Embeddings::Int4 => smaller(rows * (width.div_ceil(2) + 2)).then_some((TableFormat::I4, 0)),
            Embeddings::Product { parts } => {
                let divides = parts > 0 && width.is_multiple_of(parts);
                (divides && smaller(rows * parts + BOOK * width)).then_some((TableFormat::Product, parts))
            }
        };
        chosen.or(if has_part { eight } else { None })
    }

    fn compressed(
        &self,
        table: TensorId,
        width: usize,
        format: TableFormat,
        parts: usize,
    ) -> Option<std::sync::Arc<Table>> {
        let values = self.graph.tensors[table].value.as_ref()?;
        let floats = values.floats()?;
        let counts = self.options.id_counts.get(&self.name(table)).map(Vec::as_slice);
        let make = || compress(floats, width, format, parts, counts);
        Some(self.calibration.prepared.table(values, (format, parts), make))
    }

    /// Refuses an option for tables that none of them took.
    pub(super) fn check_tables(&self) -> Result<(), LowerError> {
        let asked = self.options.embeddings;
        let took = |op: &ops::Op| match (op, asked) {
            (_, Embeddings::Plain) => true,
            (ops::Op::Embedding(op), Embeddings::QuotientRemainder) => op.part != IdPart::Whole,
            (ops::Op::Embedding(op), Embeddings::Int8) => op.format == TableFormat::I8,
            (ops::Op::Embedding(op), Embeddings::Int4) => op.format == TableFormat::I4,
            (ops::Op::Embedding(op), Embeddings::Product { .. }) => op.format == TableFormat::Product,
            _ => false,
        };
        if asked == Embeddings::Plain || self.program.ops.iter().any(|op| took(&op.op)) {
            return Ok(());
        }
        let table = |node: &Node| {
            let lookup = matches!(node.op, Op::Gather { axis: 0 }) && self.is_table(node.inputs[0]);
            let computed = lookup && !matches!(self.graph.constant(node.inputs[1]), Some(Data::Int(_)));
            let shape = self.graph.shape(node.inputs[0]);
            computed.then(|| {
                format!("`{}` ({} x {})", self.name(node.inputs[0]), shape[0], shape[1..].iter().product::<usize>())
            })
        };
        let mut tables: Vec<String> = self.graph.nodes.iter().filter_map(table).collect();
        tables.dedup();
        let tables = if tables.is_empty() { "there is none".to_owned() } else { tables.join(", ") };
        let why = match asked {
            Embeddings::QuotientRemainder => {
                "no table is looked up by the quotient or the remainder of ids; train the model so, or use int8, int4 or pq:M"
            }
            Embeddings::Product { .. } => {
                "no table becomes smaller by it; M has to divide the width, and codebooks of 256 rows are stored beside"
            }
            _ => "no table is looked up by ids of an input, or none becomes smaller by it",
        };
        Err(LowerError::Unsupported(vec![format!("`--embeddings {asked}`: {why}; tables: {tables}")]))
    }
}
