//! Where every tensor lies in the arena: lifetimes, in-place reuse, offsets.

use crate::program::{Program, TensorIndex};
use shiftformer::format::align_up;

/// Offsets of all arena tensors and scratch areas.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Offset per tensor; 0 for constants.
    pub offsets: Vec<usize>,
    /// Offset of the scratch area per operator.
    pub scratch: Vec<usize>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Bytes that are alive at the same time at the worst operator: no plan of this program can need less.
    pub lower_bound: usize,
    /// What lies where and when, for pictures.
    pub blocks: Vec<Block>,
}

/// One block of memory over time.
#[derive(Clone, Debug)]
pub struct Block {
    /// Tensors that share the block in place; empty for scratch.
    pub tensors: Vec<TensorIndex>,
    /// First operator.
    pub first: usize,
    /// Last operator.
    pub last: usize,
    /// Size, a multiple of 16.
    pub bytes: usize,
    /// Offset.
    pub offset: usize,
}

/// Work the search may do, in visits of neighbouring blocks: below two seconds. Counted, not timed, so that the same
/// program gives the same plan everywhere.
const SEARCH_WORK: usize = 60_000_000;
/// Orders that are tried at most.
const SEARCH_ROUNDS: usize = 20_000;

/// Plans the arena of `program`.
pub fn plan(program: &Program) -> Plan {
    plan_with(program, SEARCH_WORK)
}

/// A valid plan without the search: for measuring a program, where the size of the arena does not matter.
pub fn plan_quickly(program: &Program) -> Plan {
    plan_with(program, 0)
}

fn plan_with(program: &Program, work: usize) -> Plan {
    let mut blocks = blocks(program);
    let n_tensor_blocks = blocks.len();
    for (index, op) in program.ops.iter().enumerate() {
        let bytes = align_up(op.op.scratch_bytes() as usize);
        blocks.push(Block { tensors: Vec::new(), first: index, last: index, bytes, offset: 0 });
    }
    let lower_bound = lower_bound(&blocks, program.ops.len());
    let arena_bytes = assign(&mut blocks, lower_bound, work);
    let mut offsets = vec![0; program.tensors.len()];
    for block in &blocks[..n_tensor_blocks] {
        for &tensor in &block.tensors {
            offsets[tensor] = block.offset;
        }
    }
    let scratch = blocks[n_tensor_blocks..].iter().map(|block| block.offset).collect();
    blocks.retain(|block| block.bytes > 0);
    Plan { offsets, scratch, arena_bytes, lower_bound, blocks }
}

/// Blocks of tensors with their lifetimes, in-place tensors merged.
fn blocks(program: &Program) -> Vec<Block> {
    let n_ops = program.ops.len();
    let mut first = vec![usize::MAX; program.tensors.len()];
    let mut last = vec![0usize; program.tensors.len()];
    let arena = |t: TensorIndex| program.tensors[t].constant.is_none();
    for (index, op) in program.ops.iter().enumerate() {
        first[op.output] = first[op.output].min(index);
        last[op.output] = last[op.output].max(index);
        for &input in op.inputs.iter().flatten() {
            last[input] = last[input].max(index);
        }
    }
    for input in &program.inputs {
        first[input.tensor] = 0;
    }
    for output in &program.outputs {
        last[output.tensor] = n_ops;
        first[output.tensor] = first[output.tensor].min(n_ops);
    }
    let mut block_of: Vec<Option<usize>> = vec![None; program.tensors.len()];
    let mut blocks: Vec<Block> = Vec::new();
    let new_block = |t: TensorIndex, blocks: &mut Vec<Block>| {
        let bytes = align_up(program.tensors[t].bytes());
        blocks.push(Block { tensors: vec![t], first: first[t], last: last[t], bytes, offset: 0 });
        blocks.len() - 1
    };
    for input in &program.inputs {
        block_of[input.tensor] = Some(new_block(input.tensor, &mut blocks));
    }
    for (index, op) in program.ops.iter().enumerate() {
        if block_of[op.output].is_some() {
            continue;
        }
        let reusable = op.op.in_place().and_then(|i| op.inputs.get(i).copied().flatten()).filter(|&input| {
            let others =
                op.inputs.iter().enumerate().filter(|&(i, &t)| Some(i) != op.op.in_place() && t == Some(input));
            arena(input)
                && last[input] == index
                && block_of[input].is_some()
                && program.tensors[input].bytes() == program.tensors[op.output].bytes()
                && others.count() == 0
        });
        match reusable.and_then(|input| block_of[input]) {
            Some(block) => {
                blocks[block].tensors.push(op.output);
                blocks[block].last = blocks[block].last.max(last[op.output]);
                block_of[op.output] = Some(block);
            }
            None => block_of[op.output] = Some(new_block(op.output, &mut blocks)),
        }
    }
    blocks
}

fn lower_bound(blocks: &[Block], n_ops: usize) -> usize {
    (0..=n_ops)
        .map(|op| blocks.iter().filter(|b| b.first <= op && op <= b.last).map(|b| b.bytes).sum())
        .max()
        .unwrap_or(0)
}

/// Gives every block an offset; returns the size of the arena.
///
/// Blocks are placed one by one at the lowest gap among those alive at the same time. Several orders are tried, then the
/// best is improved by moving the blocks that reach the top to the front, until the lower bound or the end of the work is
/// reached.
fn assign(blocks: &mut [Block], lower_bound: usize, work: usize) -> usize {
    let neighbours: Vec<Vec<usize>> = (0..blocks.len())
        .map(|i| {
            let overlaps = |j: &usize| {
                *j != i
                    && blocks[i].first <= blocks[*j].last
                    && blocks[*j].first <= blocks[i].last
                    && blocks[*j].bytes > 0
            };
            (0..blocks.len()).filter(overlaps).collect()
        })
        .collect();
    let mut sizes: Vec<usize> = (0..blocks.len()).filter(|&i| blocks[i].bytes > 0).collect();
    let duration = |i: usize| blocks[i].last - blocks[i].first;
    let mut orders: Vec<Vec<usize>> = Vec::new();
    sizes.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first));
    orders.push(sizes.clone());
    sizes.sort_by_key(|&i| (std::cmp::Reverse(duration(i)), std::cmp::Reverse(blocks[i].bytes)));
    orders.push(sizes.clone());
    sizes.sort_by_key(|&i| std::cmp::Reverse(blocks[i].bytes.saturating_mul(duration(i) + 1)));
    orders.push(sizes.clone());
    sizes.sort_by_key(|&i| (blocks[i].first, std::cmp::Reverse(blocks[i].bytes)));
    orders.push(sizes.clone());

    let mut best: Option<(usize, Vec<usize>, Vec<usize>)> = None;
    for order in orders {
        let (size, offsets) = place(blocks, &neighbours, &order);
        if best.as_ref().is_none_or(|(s, ..)| size < *s) {
            best = Some((size, offsets, order));
        }
    }
    let (mut size, mut offsets, mut order) = best.unwrap_or_default();
    let round = neighbours.iter().map(|n| n.len() + 4).sum::<usize>().max(1);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit.max(1) as u64) as usize
    };
    let mut rounds = 0;
    while size > lower_bound && rounds < (work / round).min(SEARCH_ROUNDS) {
        rounds += 1;
        let mut candidate = order.clone();
        let top: Vec<usize> =
            (0..candidate.len()).filter(|&p| offsets[candidate[p]] + blocks[candidate[p]].bytes == size).collect();
        // Bring a block that reaches the top forward, or shuffle two.
        let from = if next(2) == 0 && !top.is_empty() { top[next(top.len())] } else { next(candidate.len()) };
        let to = next(from + 1);
        let block = candidate.remove(from);
        candidate.insert(to, block);
        let (new_size, new_offsets) = place(blocks, &neighbours, &candidate);
        if new_size <= size {
            (size, offsets, order) = (new_size, new_offsets, candidate);
        }
    }
    for (block, offset) in blocks.iter_mut().zip(offsets) {
        block.offset = offset;
    }
    size
}

/// Lowest fit in this order.
fn place(blocks: &[Block], neighbours: &[Vec<usize>], order: &[usize]) -> (usize, Vec<usize>) {
    let mut offsets = vec![usize::MAX; blocks.len()];
    let mut size = 0;
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for &i in order {
        taken.clear();
        taken.extend(
            neighbours[i]
                .iter()
                .filter(|&&j| offsets[j] != usize::MAX)
                .map(|&j| (offsets[j], offsets[j] + blocks[j].bytes)),
        );
        taken.sort_unstable();
        let mut offset = 0;
        for &(from, to) in &taken {
            if from >= offset + blocks[i].bytes {
                break;
            }
            offset = offset.max(to);
        }
        offsets[i] = offset;
        size = size.max(offset + blocks[i].bytes);
    }
    for (offset, block) in offsets.iter_mut().zip(blocks) {
        if block.bytes == 0 {
            *offset = 0;
        }
    }
    (size, offsets)
}
