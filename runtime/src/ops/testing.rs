//! Runs one operator over given values, for the tests beside the operators.

use super::{Areas, Memory, OpFault, Operands, Operator, Proof, Step, wide};
use crate::AlignedBytes;
use crate::format::{Blob, MAX_INPUTS, MAX_RANK, NO_TENSOR, OpRecord, Place, TensorRecord, align_up};
#[cfg(feature = "parallel")]
use crate::kernels::Parallel;
use crate::kernels::{Kernels, Portable};
use crate::tensor::Dtype;
use std::cell::Cell;
use std::vec::Vec;

/// Weights under construction.
#[derive(Default)]
pub struct Weights(pub Vec<u8>);

impl Weights {
    /// Appends a 16-byte aligned blob.
    pub fn add<T: bytemuck::Pod>(&mut self, values: &[T]) -> Blob {
        self.0.resize(align_up(self.0.len()), 0);
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let blob = Blob { offset: self.0.len() as u32, bytes: bytes.len() as u32 };
        self.0.extend_from_slice(bytes);
        blob
    }
}

/// Checks `op` and runs it piece by piece: the proof and the output's values.
pub fn run(
    op: &impl Operator,
    weights: &Weights,
    inputs: &[(Dtype, &[i32])],
    output: (Dtype, usize),
) -> Result<(Proof, Vec<i32>), OpFault> {
    run_at::<Portable>(op, weights, inputs, output, None)
}

/// [`run`] with the kernels `B`.
pub fn run_with<B: Kernels>(
    op: &impl Operator,
    weights: &Weights,
    inputs: &[(Dtype, &[i32])],
    output: (Dtype, usize),
) -> Result<(Proof, Vec<i32>), OpFault> {
    run_at::<B>(op, weights, inputs, output, None)
}

/// [`run`] with the output in the memory of the input the operator names for it.
pub fn run_in_place(
    op: &impl Operator,
    weights: &Weights,
    inputs: &[(Dtype, &[i32])],
    output: (Dtype, usize),
) -> Result<(Proof, Vec<i32>), OpFault> {
    run_at::<Portable>(op, weights, inputs, output, op.in_place())
}

fn run_at<B: Kernels>(
    op: &impl Operator,
    weights: &Weights,
    inputs: &[(Dtype, &[i32])],
    output: (Dtype, usize),
    in_place: Option<usize>,
) -> Result<(Proof, Vec<i32>), OpFault> {
    let (mut tensors, mut offset) = (Vec::new(), 0);
    let mut add = |dtype: Dtype, len: usize, shared: Option<usize>| {
        let mut dims = [1; MAX_RANK];
        dims[0] = len as u32;
        let at = shared.unwrap_or(offset as usize);
        let record =
            TensorRecord { dtype, place: Place::Arena, rank: 1, window: 0, offset: at as u32, dims, zero_point: 0 };
        record.encode(&mut |word: u32| tensors.extend_from_slice(&word.to_le_bytes()));
        offset += align_up(record.bytes()) as u32;
        at..at + record.bytes()
    };
    let places: Vec<_> = inputs.iter().map(|(dtype, values)| add(*dtype, values.len(), None)).collect();
    let out = add(output.0, output.1, in_place.and_then(|index| places.get(index)).map(|place| place.start));
    let scratch_bytes = align_up(op.scratch_bytes() as usize) as u32;
    let mut record = OpRecord {
        kind: 0,
        chained: false,
        by_rows: 0,
        inputs: [NO_TENSOR; MAX_INPUTS],
        output: inputs.len() as u16,
        scratch_offset: offset,
        scratch_bytes,
        params_offset: 0,
        params_words: 0,
    };
    record.inputs.iter_mut().zip(0..inputs.len() as u16).for_each(|(to, index)| *to = index);
    let proof = op.check(&Operands { record, tensors: &tensors, weights: &weights.0, proven: false })?;
    let mut arena = AlignedBytes::zeroed((offset + scratch_bytes) as usize);
    let arena: &mut [u8] = &mut arena;
    for ((dtype, values), place) in inputs.iter().zip(places) {
        wide::store(*dtype, &mut arena[place], 0, values);
    }
    #[cfg(feature = "parallel")]
    let divided = run_divided::<B>(op, arena, (&weights.0, &tensors, &record));
    let in_parts = run_in_parts::<B>(op, arena, (&weights.0, &tensors, &record));
    let (pieces, step) = (op.pieces(), super::entry::needs_of(op).step());
    for piece in (0..pieces).step_by(step as usize) {
        let mut memory = split(arena, (&weights.0, &tensors, &record), POSITION.get()).ok_or(OpFault::Alias)?;
        op.run::<B>(&mut memory, piece..(piece + step).min(pieces)).map_err(|_| OpFault::Operand)?;
    }
    #[cfg(feature = "parallel")]
    assert!(divided == Some(arena[out.clone()].to_vec()), "not the same on several threads");
    assert!(op.parts() == 0 || in_parts == Some(arena[out.clone()].to_vec()), "not the same in parts");
    Ok((proof, wide::values(output.0, &arena[out], 0..output.1).collect()))
}

/// The operands of a model without state, of a run at position `pos`.
fn split<'a>(
    arena: &'a mut [u8],
    (weights, tensors, record): (&'a [u8], &'a [u8], &OpRecord),
    pos: u32,
) -> Option<Memory<'a>> {
    Memory::split(Areas { arena, state: &mut [], weights, tensors, step: Step { pos, rows: 0 } }, record)
}

std::thread_local! {
    static POSITION: Cell<u32> = const { Cell::new(0) };
}

/// Operators that `f` runs are at position `pos`.
pub fn at_position<T>(pos: u32, f: impl FnOnce() -> T) -> T {
    let before = POSITION.replace(pos);
    let result = f();
    POSITION.set(before);
    result
}

/// The output in parts, one by one; `arena` stays as it is.
fn run_in_parts<B: Kernels>(
    op: &impl Operator,
    arena: &[u8],
    (weights, tensors, record): (&[u8], &[u8], &OpRecord),
) -> Option<Vec<u8>> {
    let mut copy = AlignedBytes::from(arena);
    let copy: &mut [u8] = &mut copy;
    let whole = TensorRecord::decode(tensors.chunks_exact(TensorRecord::BYTES).nth(record.output.into())?)?;
    for part in 0..op.parts() {
        let mut memory = split(copy, (weights, tensors, record), POSITION.get())?;
        op.run_parts::<B>(&mut memory, part..part + 1).ok()?;
    }
    copy.get(whole.offset as usize..)?.get(..whole.bytes()).map(<[u8]>::to_vec)
}

/// The output on several threads, every part as small as can be; `arena` stays as it is.
#[cfg(feature = "parallel")]
fn run_divided<B: Kernels>(
    op: &impl Operator,
    arena: &[u8],
    (weights, tensors, record): (&[u8], &[u8], &OpRecord),
) -> Option<Vec<u8>> {
    let mut copy = AlignedBytes::from(arena);
    let copy: &mut [u8] = &mut copy;
    let pos = POSITION.get();
    crate::kernels::parallel::tests::POOL.install(|| {
        let mut memory = split(copy, (weights, tensors, record), pos)?;
        super::entry::run_here::<Parallel<B, 1>, _>(op, &mut memory, 0..op.pieces()).ok()?;
        Some(memory.out.to_vec())
    })
}

/// Pseudo-random numbers of a fixed seed.
pub struct Random(pub u64);

impl Random {
    /// The next number, uniform in `0..limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(limit)) >> 64) as u64
    }

    /// Uniform in the range of `dtype`.
    pub fn value(&mut self, dtype: Dtype) -> i32 {
        let (min, max) = dtype.range();
        (i64::from(min) + self.below((i64::from(max) - i64::from(min) + 1) as u64) as i64) as i32
    }

    /// `len` of them.
    pub fn values(&mut self, dtype: Dtype, len: usize) -> Vec<i32> {
        (0..len).map(|_| self.value(dtype)).collect()
    }
}
