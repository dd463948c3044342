//! Where every tensor lies in the arena: lifetimes, in-place reuse, offsets.

use crate::program::{Program, QOp, TensorIndex};
use shiftformer::format::align_up;
use shiftformer::ops::{Op, RowRead};
use std::ops::Range;

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

/// Bytes that are alive at the same time at the worst operator: what a plan of `program` needs at least.
pub fn memory_bound(program: &Program) -> usize {
    let mut blocks = blocks(program);
    let rides = rides(program, &blocks);
    blocks.extend(scratch(program));
    lower_bound(&blocks, &rides, program.ops.len())
}

fn scratch(program: &Program) -> impl Iterator<Item = Block> + '_ {
    program.ops.iter().enumerate().map(|(index, op)| {
        let bytes = align_up(op.op.scratch_bytes() as usize);
        Block { tensors: Vec::new(), first: index, last: index, bytes, offset: 0 }
    })
}

fn plan_with(program: &Program, work: usize) -> Plan {
    let mut blocks = blocks(program);
    let n_tensor_blocks = blocks.len();
    let rides = rides(program, &blocks);
    blocks.extend(scratch(program));
    let lower_bound = lower_bound(&blocks, &rides, program.ops.len());
    let arena_bytes = assign(&mut blocks, &rides, lower_bound, work);
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
    let arena = |t: TensorIndex| program.tensors[t].in_arena();
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
    let last_read = last.clone();
    stretch_over_chains(program, &mut first, &mut last);
    let mut block_of: Vec<Option<usize>> = vec![None; program.tensors.len()];
    let mut blocks: Vec<Block> = Vec::new();
    let new_block = |t: TensorIndex, blocks: &mut Vec<Block>| {
        let bytes = align_up(program.tensors[t].held_bytes());
        blocks.push(Block { tensors: vec![t], first: first[t], last: last[t], bytes, offset: 0 });
        blocks.len() - 1
    };
    for input in &program.inputs {
        block_of[input.tensor] = Some(new_block(input.tensor, &mut blocks));
    }
    for (index, op) in program.ops.iter().enumerate() {
        if block_of[op.output].is_some() || !arena(op.output) {
            continue;
        }
        let reusable = op.op.in_place().and_then(|i| op.inputs.get(i).copied().flatten()).filter(|&input| {
            let others =
                op.inputs.iter().enumerate().filter(|&(i, &t)| Some(i) != op.op.in_place() && t == Some(input));
            arena(input)
                && last_read[input] == index
                && block_of[input].is_some()
                && program.tensors[input].bytes() == program.tensors[op.output].bytes()
                && program.tensors[input].window == program.tensors[op.output].window
                && others.count() == 0
                && chain_reads_rows(program, index, input)
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

/// What is whole is alive from the first block of every chain that touches it to the last; what has a window is
/// written anew in every block.
fn stretch_over_chains(program: &Program, first: &mut [usize], last: &mut [usize]) {
    let mut start = 0;
    while start < program.ops.len() {
        let chain = program.chain_at(start);
        for op in &program.ops[chain.clone()] {
            for tensor in op.inputs.iter().copied().flatten().chain([op.output]) {
                if program.tensors[tensor].window == 0 {
                    first[tensor] = first[tensor].min(chain.start);
                    last[tensor] = last[tensor].max(chain.end - 1);
                }
            }
        }
        start = chain.end;
    }
}

/// Whether all operators that run in blocks together with `op` read `input` row by row, so that `op` may overwrite the
/// rows of its block.
fn chain_reads_rows(program: &Program, op: usize, input: TensorIndex) -> bool {
    let start = (0..=op).rev().find(|&op| !program.ops[op].chained).unwrap_or(0);
    let chain = program.chain_at(start);
    chain.len() == 1
        || program.ops[chain].iter().all(|op| {
            let reads = op.op.row_access().map(|access| access.inputs).unwrap_or(RowRead::NONE);
            op.inputs.iter().zip(reads).all(|(&t, read)| t != Some(input) || matches!(read, RowRead::Row(_)))
        })
}

/// Maximum sum of the blocks alive at an operator; a block that rides on another adds what it has beyond it.
fn lower_bound(blocks: &[Block], rides: &[Overlap], n_ops: usize) -> usize {
    let mut change = vec![0isize; n_ops + 2];
    let mut add = |first: usize, last: usize, bytes: isize| {
        change[first.min(n_ops)] += bytes;
        change[last.min(n_ops) + 1] -= bytes;
    };
    blocks.iter().for_each(|b| add(b.first, b.last, b.bytes as isize));
    for ride in rides {
        let (rider, carrier) = (&blocks[ride.rider], &blocks[ride.carrier]);
        let shared = carrier.bytes.min(ride.distance + rider.bytes).saturating_sub(ride.distance);
        add(rider.first.max(carrier.first), rider.last.min(carrier.last), -(shared as isize));
    }
    let alive = change.iter().scan(0, |sum, &bytes| {
        *sum += bytes;
        Some(*sum)
    });
    alive.max().unwrap_or(0).max(0) as usize
}

/// Gives every block an offset; returns the size of the arena.
///
/// Blocks are placed one by one at the lowest gap among those alive at the same time. Several orders are tried, then the
/// best is improved by moving the blocks that reach the top to the front, until the lower bound or the end of the work is
/// reached.
fn assign(blocks: &mut [Block], rides: &[Overlap], lower_bound: usize, work: usize) -> usize {
    let neighbours: Vec<Vec<usize>> = (0..blocks.len())
        .map(|i| {
            let overlaps = |j: &usize| {
                *j != i
                    && blocks[i].first <= blocks[*j].last
                    && blocks[*j].first <= blocks[i].last
                    && blocks[*j].bytes > 0
                    && !rides.iter().any(|r| (r.rider, r.carrier) == (i, *j) || (r.carrier, r.rider) == (i, *j))
            };
            (0..blocks.len()).filter(overlaps).collect()
        })
        .collect();
    let rider_of = |i: usize| rides.iter().find(|r| r.carrier == i);
    let place = |blocks: &[Block], order: &[usize]| place(blocks, &neighbours, &rider_of, order);
    let mut sizes: Vec<usize> =
        (0..blocks.len()).filter(|&i| blocks[i].bytes > 0 && rides.iter().all(|r| r.rider != i)).collect();
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
        let (size, offsets) = place(blocks, &order);
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
        let (new_size, new_offsets) = place(blocks, &candidate);
        if new_size <= size {
            (size, offsets, order) = (new_size, new_offsets, candidate);
        }
    }
    for (block, offset) in blocks.iter_mut().zip(offsets) {
        block.offset = offset;
    }
    size
}

/// Lowest fit in this order. A block that carries another is placed where both fit.
fn place<'r>(
    blocks: &[Block],
    neighbours: &[Vec<usize>],
    rider_of: &impl Fn(usize) -> Option<&'r Overlap>,
    order: &[usize],
) -> (usize, Vec<usize>) {
    let mut offsets = vec![usize::MAX; blocks.len()];
    let mut size = 0;
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for &i in order {
        taken.clear();
        let placed = |j: usize, offsets: &[usize]| {
            neighbours[j]
                .iter()
                .filter(|&&n| offsets[n] != usize::MAX)
                .map(|&n| (offsets[n], offsets[n] + blocks[n].bytes))
                .collect::<Vec<_>>()
        };
        taken.extend(placed(i, &offsets).into_iter().map(|(from, to)| (from.saturating_sub(blocks[i].bytes - 1), to)));
        let rider = rider_of(i);
        if let Some(&Overlap { rider, distance, .. }) = rider {
            let top = distance + blocks[rider].bytes;
            taken.extend(
                placed(rider, &offsets)
                    .into_iter()
                    .filter(|&(_, to)| to > distance)
                    .map(|(from, to)| ((from + 1).saturating_sub(top), to - distance)),
            );
        }
        // Each entry holds the offsets at which the block, or what it carries, would overlap a neighbour.
        taken.sort_unstable();
        let mut offset = 0;
        for &(from, to) in &taken {
            if from > offset {
                break;
            }
            offset = offset.max(to);
        }
        offsets[i] = offset;
        size = size.max(offset + blocks[i].bytes);
        if let Some(&Overlap { rider, distance, .. }) = rider {
            offsets[rider] = offset + distance;
            size = size.max(offset + distance + blocks[rider].bytes);
        }
    }
    for (offset, block) in offsets.iter_mut().zip(blocks) {
        if block.bytes == 0 {
            *offset = 0;
        }
    }
    (size, offsets)
}

/// A block in part of the memory of another: an input whose bytes a chain has read before it overwrites them with its
/// output, as a convolution does that writes the tokens of an image over the image.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    /// The input.
    rider: usize,
    /// The output.
    carrier: usize,
    /// Bytes from the start of the output to the start of the input.
    distance: usize,
}

/// Inputs that may lie in memory of outputs.
fn rides(program: &Program, blocks: &[Block]) -> Vec<Overlap> {
    let block_of = |tensor: TensorIndex| blocks.iter().position(|b| b.tensors.contains(&tensor));
    let mut rides: Vec<Overlap> = Vec::new();
    let mut start = 0;
    while start < program.ops.len() {
        let chain = program.chain_at(start);
        start = chain.end;
        let output = program.ops[chain.end - 1].output;
        let inputs = program.ops[chain.clone()].iter().flat_map(|op| op.inputs.iter().flatten().copied());
        let best = inputs.filter_map(|input| {
            let distance = ride_distance(program, &chain, input)?;
            let (rider, carrier) = (block_of(input)?, block_of(output)?);
            let (r, c) = (&blocks[rider], &blocks[carrier]);
            let alone = r.tensors == [input] && r.last + 1 == chain.end && rider != carrier;
            let worth = distance < c.bytes && c.last >= r.last;
            (alone && worth).then_some(Overlap { rider, carrier, distance })
        });
        let free = |ride: &Overlap| rides.iter().all(|r| r.carrier != ride.carrier && r.rider != ride.rider);
        rides.extend(best.filter(free).max_by_key(|ride| blocks[ride.rider].bytes));
    }
    rides
}

/// Minimum distance of `input` behind the output of `chain` at which everything is read before it is overwritten.
fn ride_distance(program: &Program, chain: &Range<usize>, input: TensorIndex) -> Option<usize> {
    let QOp { op: last, output, .. } = &program.ops[chain.end - 1];
    let (input_tensor, output_tensor) = (&program.tensors[input], &program.tensors[*output]);
    let block = u32::from(program.tensors[program.ops[chain.start].output].window);
    let whole = input_tensor.in_arena() && input_tensor.window == 0 && output_tensor.window == 0;
    (chain.len() > 1 && block > 0 && whole).then_some(())?;
    let access = last.row_access()?;
    let rows = last.pieces();
    let (in_size, out_size) = (input_tensor.dtype.bytes(), output_tensor.dtype.bytes());
    // What other operators have written of the output before.
    let mut distance = 0;
    for op in program.ops[..chain.start].iter().filter(|op| op.output == *output) {
        let Op::Copy(copy) = &op.op else { return None };
        let reach = copy.dims.iter().zip(copy.to.strides).map(|(&d, s)| (i64::from(d) - 1) * i64::from(s).max(0));
        distance = distance.max((i64::from(copy.to.offset) + reach.sum::<i64>() + 1) as usize * out_size);
    }
    for op in &program.ops[chain.clone()] {
        let reads = op.op.row_access()?.inputs;
        for (_, read) in op.inputs.iter().zip(reads).filter(|&(&t, _)| t == Some(input)) {
            matches!(read, RowRead::From { .. }).then_some(())?;
            for row in (block..rows).step_by(block as usize) {
                let written = (access.out_first as usize + access.out_row as usize * row as usize) * out_size;
                distance = distance.max(written.saturating_sub(read.from(row) as usize * in_size));
            }
        }
    }
    Some(align_up(distance))
}
