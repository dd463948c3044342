//! What lies in the arena when, read back from a finished model.

use shiftformer::Model;
use shiftformer::format::{NO_TENSOR, Place, TensorRecord};
use shiftformer::kernels::Kernels;
use shiftformer_convert::pack::Annotations;

/// A stretch of arena that belongs to one tensor, or to one operator's scratch, for a stretch of operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Name of the tensor, or of the operator whose scratch it is.
    pub name: String,
    /// Scratch memory of one operator.
    pub scratch: bool,
    /// Rows of the tensor that are in memory at a time, 0 for all.
    pub window: usize,
    /// First operator during which the bytes are in use.
    pub first: usize,
    /// Last such operator.
    pub last: usize,
    /// Offset in the arena.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// All blocks of a model, tensors first.
pub fn blocks<B: Kernels>(model: &Model<'_, B>, annotations: &Annotations) -> Vec<Block> {
    let n_ops = model.n_ops();
    let tensors: Vec<TensorRecord> = (0..model.sections().n_tensors).filter_map(|t| model.tensor(t)).collect();
    let mut used: Vec<Option<(usize, usize)>> = vec![None; tensors.len()];
    let mut touch = |tensor: usize, op: usize| {
        if let Some(range) = used.get_mut(tensor) {
            let (first, last) = range.unwrap_or((op, op));
            *range = Some((first.min(op), last.max(op)));
        }
    };
    (0..model.n_inputs()).filter_map(|i| model.input_tensor(i)).for_each(|t| touch(t, 0));
    let last_op = n_ops.saturating_sub(1);
    (0..model.n_outputs()).filter_map(|i| model.output_tensor(i)).for_each(|t| touch(t, last_op));
    for op in 0..n_ops {
        let Some(record) = model.op_record(op) else { continue };
        let chain = model.chain(op).map_or(op..op + 1, |chain| chain.ops);
        for tensor in record.inputs.into_iter().filter(|&t| t != NO_TENSOR).chain([record.output]).map(usize::from) {
            // What is whole is in use from the first block of its chain to the last.
            let windowed = tensors.get(tensor).is_some_and(|t| t.window > 0);
            let ops = if windowed { op..op + 1 } else { chain.clone() };
            ops.for_each(|op| touch(tensor, op));
        }
    }
    let tensor_blocks = tensors.iter().zip(&used).enumerate().filter_map(|(index, (tensor, range))| {
        let (first, last) = (*range)?;
        let name = annotations.tensors.get(index).map_or_else(|| format!("tensor {index}"), |t| t.name.clone());
        let (window, offset) = (usize::from(tensor.window), tensor.offset as usize);
        let block = Block { name, scratch: false, window, first, last, offset, bytes: tensor.held_bytes() };
        (tensor.place == Place::Arena && block.bytes > 0).then_some(block)
    });
    let scratch_blocks = (0..n_ops).filter_map(|op| {
        let record = model.op_record(op)?;
        let name = annotations.ops.get(op).cloned().unwrap_or_else(|| format!("operator {op}"));
        let (offset, bytes) = (record.scratch_offset as usize, record.scratch_bytes as usize);
        (bytes > 0).then_some(Block { name, scratch: true, window: 0, first: op, last: op, offset, bytes })
    });
    tensor_blocks.chain(scratch_blocks).collect()
}

/// Bytes in use during each of `n_ops` operators: the union of the blocks alive.
pub fn usage(blocks: &[Block], n_ops: usize) -> Vec<usize> {
    (0..n_ops)
        .map(|op| {
            let mut alive: Vec<_> = blocks.iter().filter(|b| b.first <= op && op <= b.last).collect();
            alive.sort_by_key(|b| b.offset);
            let (mut bytes, mut end) = (0, 0);
            for block in alive {
                let (from, to) = (block.offset.max(end), block.offset + block.bytes);
                bytes += to.saturating_sub(from);
                end = end.max(to);
            }
            bytes
        })
        .collect()
}

/// Draws the arena as text: operators from left to right, addresses from bottom to top; one letter per tensor, a capital
/// where a window of its rows is in memory, `.` for scratch, blank where nothing lives.
pub fn draw(blocks: &[Block], n_ops: usize, arena_bytes: usize, columns: usize, rows: usize) -> String {
    let (columns, rows) = (columns.min(n_ops).max(1), rows.max(1));
    let letter = |index: usize, block: &Block| match block {
        Block { scratch: true, .. } => '.',
        Block { window: 0, .. } => char::from(b'a' + (index % 26) as u8),
        _ => char::from(b'A' + (index % 26) as u8),
    };
    let mut picture = String::new();
    for row in (0..rows).rev() {
        let (low, high) = (arena_bytes * row / rows, (arena_bytes * (row + 1) / rows).max(1));
        picture
            .push_str(&format!("{:>9} |", if row + 1 == rows || row == 0 { low.to_string() } else { String::new() }));
        for column in 0..columns {
            let op = column * n_ops / columns;
            let here = |b: &Block| b.first <= op && op <= b.last && b.offset < high && low < b.offset + b.bytes;
            let found = blocks.iter().enumerate().filter(|(_, b)| here(b));
            let covered = |b: &Block| (b.offset + b.bytes).min(high) - b.offset.max(low);
            picture.push(match found.max_by_key(|(_, b)| covered(b)) {
                Some((index, block)) => letter(index, block),
                None => ' ',
            });
        }
        picture.push('\n');
    }
    picture.push_str(&format!("{:>9} +{}\n", "bytes", "-".repeat(columns)));
    let windows = if blocks.iter().any(|b| b.window > 0) { ", capitals are windows of rows" } else { "" };
    picture.push_str(&format!("{:>10} operators 0 to {}, `.` is scratch{windows}\n", "", n_ops.saturating_sub(1)));
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, first: usize, last: usize, offset: usize, bytes: usize) -> Block {
        Block { name: name.into(), scratch: name.is_empty(), window: 0, first, last, offset, bytes }
    }

    #[test]
    fn shared_memory_is_counted_once() {
        let blocks = [block("x", 0, 1, 0, 32), block("in place", 1, 2, 0, 32), block("", 1, 1, 48, 16)];
        assert_eq!(usage(&blocks, 3), [32, 48, 32]);
    }

    #[test]
    fn picture_has_addresses_upwards_and_operators_rightwards() {
        let blocks = [block("x", 0, 0, 0, 32), block("y", 1, 1, 32, 32), block("", 1, 1, 0, 16)];
        let picture = draw(&blocks, 2, 64, 72, 4);
        let cells: Vec<&str> = picture.lines().take(4).map(|l| &l[11..]).collect();
        assert_eq!(cells, [" b", " b", "a ", "a."]);
        assert!(!picture.contains("capitals"));
    }

    #[test]
    fn windows_of_rows_have_capitals() {
        let blocks = [block("x", 0, 1, 0, 32), Block { window: 4, ..block("y", 1, 1, 32, 32) }];
        let picture = draw(&blocks, 2, 64, 72, 2);
        let cells: Vec<&str> = picture.lines().take(2).map(|l| &l[11..]).collect();
        assert_eq!(cells, [" B", "aa"]);
        assert!(picture.contains("capitals are windows of rows"));
    }
}
