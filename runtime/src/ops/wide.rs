//! Elementwise work on any element type: a chunk is widened to `i32`, computed, and stored with saturation.
//!
//! For the operators that are not the bulk of a model; the hot ones have typed kernels.

use super::{Dims, Extent, Memory, RunFault, stretches};
use crate::arith::requant::{sat_i8, sat_i16};
use crate::tensor::Dtype;
use core::ops::Range;

/// Elements widened at a time.
const CHUNK: usize = 32;
/// Elements of a piece of an elementwise operator.
pub(super) const PIECE: u32 = 64;

/// Pieces of `len` elements.
pub(super) const fn pieces(len: u32) -> u32 {
    len.div_ceil(PIECE)
}

/// The elements of `pieces` of `len` elements.
pub(super) fn elements(pieces: Range<u32>, len: u32) -> Range<usize> {
    let at = |piece: u32| piece.saturating_mul(PIECE).min(len) as usize;
    at(pieces.start)..at(pieces.end)
}

/// Reads elements `start`, `start + stride`, ... of `bytes` into `to`; elements out of range read as 0.
pub(super) fn load(dtype: Dtype, bytes: &[u8], start: usize, stride: isize, to: &mut [i32]) {
    // One loop for a size: what has no sign loses it again.
    match dtype {
        Dtype::I8 | Dtype::U8 => {
            let mask = if dtype == Dtype::U8 { 0xff } else { -1 };
            load_as(bytes, start, stride, to, |[b]: [u8; 1]| i32::from(b as i8) & mask);
        }
        Dtype::I16 | Dtype::U16 => {
            let mask = if dtype == Dtype::U16 { 0xffff } else { -1 };
            load_as(bytes, start, stride, to, |b| i32::from(i16::from_le_bytes(b)) & mask);
        }
        Dtype::I32 => load_as(bytes, start, stride, to, i32::from_le_bytes),
    }
}

/// [`load`] of elements of `SIZE` bytes.
#[inline]
fn load_as<const SIZE: usize>(
    bytes: &[u8],
    start: usize,
    stride: isize,
    to: &mut [i32],
    value: impl Fn([u8; SIZE]) -> i32,
) {
    let elements = bytes.as_chunks::<SIZE>().0;
    // Neighbours, all of which exist: a loop that can be vectorized.
    if let (1, Some(elements)) = (stride, elements.get(start..).and_then(|e| e.get(..to.len()))) {
        to.iter_mut().zip(elements).for_each(|(to, &bytes)| *to = value(bytes));
        return;
    }
    let mut at = start as isize;
    for to in to {
        let element = usize::try_from(at).ok().and_then(|at| elements.get(at));
        *to = element.map_or(0, |&bytes| value(bytes));
        at += stride;
    }
}

/// The elements `range` of `bytes`, one by one; elements out of range read as 0.
pub(super) fn values(dtype: Dtype, bytes: &[u8], range: Range<usize>) -> impl Iterator<Item = i32> + Clone + '_ {
    range.map(move |at| {
        let mut value = [0];
        load(dtype, bytes, at, 1, &mut value);
        let [value] = value;
        value
    })
}

/// Stores `from` at element `start` of `bytes` and following, saturated to `dtype`.
pub(super) fn store(dtype: Dtype, bytes: &mut [u8], start: usize, from: &[i32]) {
    let size = dtype.bytes();
    let to = bytes.get_mut(start * size..).unwrap_or(&mut []);
    match dtype {
        Dtype::I8 => to.iter_mut().zip(from).for_each(|(to, &v)| *to = sat_i8(v) as u8),
        Dtype::U8 => to.iter_mut().zip(from).for_each(|(to, &v)| *to = v.clamp(0, 255) as u8),
        Dtype::I16 => {
            to.as_chunks_mut::<2>().0.iter_mut().zip(from).for_each(|(to, &v)| *to = sat_i16(v).to_le_bytes());
        }
        Dtype::U16 => {
            let sat = |v: i32| (v.clamp(0, 65535) as u16).to_le_bytes();
            to.as_chunks_mut::<2>().0.iter_mut().zip(from).for_each(|(to, &v)| *to = sat(v));
        }
        Dtype::I32 => to.as_chunks_mut::<4>().0.iter_mut().zip(from).for_each(|(to, &v)| *to = v.to_le_bytes()),
    }
}

/// Stores `from` at element `start` of the output.
pub(super) fn store_out(memory: &mut Memory<'_>, start: usize, from: &[i32]) {
    let start = memory.index(start);
    store(memory.output.dtype, memory.out, start, from);
}

/// Loads from input `index`, or from the output where that input is in place.
pub(super) fn load_input(
    memory: &Memory<'_>,
    index: usize,
    start: usize,
    stride: isize,
    to: &mut [i32],
) -> Result<(), RunFault> {
    let dtype = memory.inputs.record(index).ok_or(RunFault::Memory)?.dtype;
    if memory.inputs.is_in_place(index) {
        load(dtype, memory.out, memory.index(start), stride, to);
    } else {
        load(dtype, memory.inputs.bytes(index)?, start, stride, to);
    }
    Ok(())
}

/// `out = f(x)` over the elements `range` of input `index`, in order.
pub(super) fn rowwise(
    memory: &mut Memory<'_>,
    index: usize,
    range: Range<usize>,
    mut f: impl FnMut(i32) -> i32,
) -> Result<(), RunFault> {
    chunks(memory, index, range, |values| values.iter_mut().for_each(|v| *v = f(*v)))
}

/// [`rowwise`], `f` computing a chunk of values in place.
pub(super) fn chunks(
    memory: &mut Memory<'_>,
    index: usize,
    range: Range<usize>,
    mut f: impl FnMut(&mut [i32]),
) -> Result<(), RunFault> {
    let mut buffer = [0i32; CHUNK];
    for start in range.clone().step_by(CHUNK) {
        let values = buffer.get_mut(..(range.end - start).min(CHUNK)).unwrap_or(&mut []);
        load_input(memory, index, start, 1, values)?;
        f(values);
        store_out(memory, start, values);
    }
    Ok(())
}

/// `out = f(a, b)` over the elements `range` of contiguous outputs of shape `dims`, inputs 0 and 1 read through their
/// views.
pub(super) fn binary(
    memory: &mut Memory<'_>,
    dims: &Dims,
    views: [&Extent; 2],
    range: Range<usize>,
    f: impl Fn(i32, i32) -> i32,
) -> Result<(), RunFault> {
    let [sa, sb] = views.map(|view| view.strides.last().copied().unwrap_or(0) as isize);
    let (mut a, mut b) = ([0i32; CHUNK], [0i32; CHUNK]);
    let mut to = range.start;
    for ([mut x, mut y], mut left) in stretches(dims, views, range) {
        while left > 0 {
            let count = left.min(CHUNK);
            let (a, b) = (a.get_mut(..count).unwrap_or(&mut []), b.get_mut(..count).unwrap_or(&mut []));
            load_input(memory, 0, x, sa, a)?;
            load_input(memory, 1, y, sb, b)?;
            a.iter_mut().zip(&*b).for_each(|(a, &b)| *a = f(*a, b));
            store_out(memory, to, a);
            x = x.wrapping_add_signed(sa.wrapping_mul(count as isize));
            y = y.wrapping_add_signed(sb.wrapping_mul(count as isize));
            (to, left) = (to + count, left - count);
        }
    }
    Ok(())
}
