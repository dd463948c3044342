//! Operators that only move elements.

use super::super::builder::{Builder, broadcast};
use super::super::node::{Call, OpResult, Outputs, axis_index, axis_indices, invalid, one, unsupported};
use crate::graph::{Data, Op, TensorId};

pub fn identity(_: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(call.input(0)?)
}

pub fn dropout(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    if let Some(training) = call.optional(2)
        && builder.float_value(training, "training_mode")? != 0.0
    {
        return unsupported("training mode; export the model in evaluation mode");
    }
    let x = call.input(0)?;
    if !call.wants(1) {
        return one(x);
    }
    // In evaluation mode nothing is dropped.
    let shape = builder.shape(x);
    let count = builder.checked_count(&shape)?;
    let mask = if call.version < 10 { Data::Float(vec![1.0; count]) } else { Data::Bool(vec![true; count]) };
    Ok(vec![Some(x), Some(builder.constant(&shape, mask)?)])
}

pub fn transpose(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let rank = builder.rank(x);
    let perm = match call.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            let order = perm.iter().map(|&axis| axis_index(axis, rank)).collect::<OpResult<Vec<_>>>()?;
            if axis_indices(&perm, rank)?.len() != rank {
                return invalid(format!("perm {perm:?} does not name all {rank} dimensions"));
            }
            order
        }
    };
    one(builder.transpose(x, &perm)?)
}

/// A requested shape with 0 (as before, unless `zero_is_zero`) and one -1 (what is left).
fn resolve_shape(old: &[usize], requested: &[i64], zero_is_zero: bool) -> OpResult<Vec<usize>> {
    let mut shape = Vec::with_capacity(requested.len());
    let mut open = None;
    for (d, &size) in requested.iter().enumerate() {
        shape.push(match size {
            -1 if open.is_none() => {
                open = Some(d);
                1
            }
            0 if !zero_is_zero => match old.get(d) {
                Some(&size) => size,
                None => {
                    return invalid(format!("dimension {d} of {requested:?} copies one that {old:?} does not have"));
                }
            },
            size if size >= 0 => size as usize,
            _ => return invalid(format!("{requested:?} is not a shape")),
        });
    }
    if let Some(d) = open {
        let total: usize = old.iter().product();
        let known = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(0);
        if known == 0 || !total.is_multiple_of(known) {
            return invalid(format!("{old:?} cannot be reshaped to {requested:?}"));
        }
        shape[d] = total / known;
    }
    Ok(shape)
}

pub fn reshape(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let requested = builder.ints(call.input(1)?, "the shape")?;
    let shape = resolve_shape(builder.graph.shape(x), &requested, call.int_or("allowzero", 0)? != 0)?;
    one(builder.reshape(x, &shape)?)
}

pub fn flatten(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let axis = call.int_or("axis", 1)?;
    let axis = if axis == shape.len() as i64 { shape.len() } else { axis_index(axis, shape.len())? };
    let matrix = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    one(builder.reshape(x, &matrix)?)
}

/// The axes of Squeeze and Unsqueeze: operand or, in older opsets, attribute.
fn axes(builder: &Builder, call: &Call) -> OpResult<Option<Vec<i64>>> {
    match call.optional(1) {
        Some(id) => Ok(Some(builder.ints(id, "the axes")?)),
        None => call.ints("axes"),
    }
}

pub fn squeeze(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let dropped = match axes(builder, call)? {
        Some(axes) => axis_indices(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&d| shape[d] == 1).collect(),
    };
    if dropped.iter().any(|&d| shape[d] != 1) {
        return invalid(format!("dimensions {dropped:?} of {shape:?} are not all 1"));
    }
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !dropped.contains(d)).map(|d| shape[d]).collect();
    one(builder.reshape(x, &kept)?)
}

pub fn unsqueeze(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let Some(axes) = axes(builder, call)? else { return invalid("axes are missing") };
    let rank = builder.rank(x) + axes.len();
    let inserted = axis_indices(&axes, rank)?;
    let mut old = builder.shape(x).into_iter();
    let shape: Vec<usize> =
        (0..rank).map(|d| if inserted.contains(&d) { 1 } else { old.next().unwrap_or(1) }).collect();
    one(builder.reshape(x, &shape)?)
}

/// First index and number of elements of `start..end` with `step` along a dimension, by Python's rules.
fn range(start: i64, end: i64, step: i64, size: usize) -> (usize, usize) {
    let size = size as i64;
    let from_end = |index: i64| if index < 0 { index.saturating_add(size) } else { index };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end) = (from_end(start).clamp(low, high), from_end(end).clamp(low, high));
    let span = if step > 0 { end - start } else { start - end };
    let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
    (if count == 0 { 0 } else { start as usize }, count as usize)
}

pub fn slice(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let mut shape = builder.shape(x);
    let list = |builder: &Builder, index: usize, name: &str| match call.optional(index) {
        Some(id) => builder.ints(id, name).map(Some),
        None => call.ints(name),
    };
    let (Some(starts), Some(ends)) = (list(builder, 1, "starts")?, list(builder, 2, "ends")?) else {
        return invalid("starts or ends are missing");
    };
    let axes = list(builder, 3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(builder, 4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) || steps.contains(&0) {
        return invalid("starts, ends, axes and steps differ in length");
    }
    axis_indices(&axes, shape.len())?;
    let (mut firsts, mut strides) = (vec![0; shape.len()], vec![1isize; shape.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        let d = axis_index(axis, shape.len())?;
        let (first, count) = range(starts[i], ends[i], steps[i], shape[d]);
        firsts[d] = first;
        // A step that is never taken may be larger than any tensor.
        strides[d] = if count > 1 { steps[i] as isize } else { 1 };
        shape[d] = count;
    }
    one(builder.slice(x, firsts, strides, shape)?)
}

pub fn split(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axis = axis_index(call.int_or("axis", 0)?, builder.rank(x))?;
    let size = builder.graph.shape(x)[axis];
    let parts = match call.int("num_outputs")? {
        Some(parts) => usize::try_from(parts).unwrap_or(0),
        None => call.proto.output.len(),
    };
    let listed = match call.optional(1) {
        Some(id) => Some(builder.ints(id, "the parts")?),
        None => call.ints("split")?,
    };
    let lengths = match listed {
        Some(lengths) => lengths.iter().map(|&l| usize::try_from(l).unwrap_or(usize::MAX)).collect(),
        None => equal_parts(size, parts)?,
    };
    if lengths.iter().try_fold(0usize, |sum, &l| sum.checked_add(l)) != Some(size)
        || lengths.len() < call.proto.output.len()
    {
        return invalid(format!("parts of {lengths:?} do not make {size}"));
    }
    let mut start = 0;
    let mut outputs = Outputs::with_capacity(lengths.len());
    for (index, &length) in lengths.iter().enumerate() {
        outputs.push(if call.wants(index) { Some(builder.narrow(x, axis, start, length)?) } else { None });
        start += length;
    }
    Ok(outputs)
}

/// Parts of one length, the last one shorter.
fn equal_parts(size: usize, parts: usize) -> OpResult<Vec<usize>> {
    if parts == 0 || parts > size.max(1) {
        return invalid(format!("{size} elements do not split into {parts} parts"));
    }
    let length = size.div_ceil(parts);
    let Some(last) = size.checked_sub(length * (parts - 1)) else {
        return invalid(format!("{size} elements do not split into {parts} parts of {length}"));
    };
    let mut lengths = vec![length; parts];
    lengths[parts - 1] = last;
    Ok(lengths)
}

pub fn concat(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let first = call.input(0)?;
    let Some(axis) = call.int("axis")? else { return invalid("axis is missing") };
    let axis = axis_index(axis, builder.rank(first))?;
    let inputs = (0..call.inputs.len()).map(|index| call.input(index)).collect::<OpResult<Vec<_>>>()?;
    one(builder.concat(&inputs, axis)?)
}

pub fn expand(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let requested = builder.ints(call.input(1)?, "the shape")?;
    // -1 keeps a dimension, as PyTorch writes it.
    let rank = requested.len();
    let kept = |d: usize| (d + builder.rank(x)).checked_sub(rank).map_or(1, |d| builder.graph.shape(x)[d]);
    let sizes = requested
        .iter()
        .enumerate()
        .map(|(d, &size)| if size == -1 { Some(kept(d)) } else { usize::try_from(size).ok() });
    let Some(sizes) = sizes.collect::<Option<Vec<_>>>() else {
        return invalid(format!("{requested:?} is not a shape"));
    };
    let shape = broadcast(builder.graph.shape(x), &sizes)?;
    one(builder.expand(x, &shape)?)
}

pub fn tile(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let repeats = builder.ints(call.input(1)?, "the repeats")?;
    let shape = builder.shape(x);
    if repeats.len() != shape.len() {
        return invalid(format!("{} repeats for {} dimensions", repeats.len(), shape.len()));
    }
    // Each repeated dimension gets one of size 1 before it, which is expanded.
    let (mut apart, mut expanded, mut tiled) = (vec![], vec![], vec![]);
    for (&size, &times) in shape.iter().zip(&repeats) {
        let Ok(times) = usize::try_from(times) else { return invalid("repeats must not be negative") };
        if times != 1 && size != 1 {
            apart.push(1);
            expanded.push(times);
        }
        apart.push(size);
        expanded.push(if size == 1 { times } else { size });
        tiled.push(size.saturating_mul(times));
    }
    let x = builder.reshape(x, &apart)?;
    let x = builder.expand(x, &expanded)?;
    one(builder.reshape(x, &tiled)?)
}

/// Elements before and after each dimension; negative ones cut.
fn padding(builder: &Builder, call: &Call, rank: usize) -> OpResult<Vec<[i64; 2]>> {
    let pads = match call.optional(1) {
        Some(id) => builder.ints(id, "the pads")?,
        None => call.ints("pads")?.unwrap_or_default(),
    };
    let axes = match call.optional(3) {
        Some(id) => builder.ints(id, "the axes")?,
        None => (0..rank as i64).collect(),
    };
    axis_indices(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return invalid(format!("{} pads for {} dimensions", pads.len(), axes.len()));
    }
    let mut all = vec![[0; 2]; rank];
    for (i, &axis) in axes.iter().enumerate() {
        all[axis_index(axis, rank)?] = [pads[i], pads[i + axes.len()]];
    }
    Ok(all)
}

pub fn pad(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let mode = call.text_or("mode", "constant")?;
    let x = call.input(0)?;
    let pads = padding(builder, call, builder.rank(x))?;
    if mode != "constant" {
        call.ignore(&["value"]);
        let mut y = crop(builder, x, &pads)?;
        for (axis, sides) in pads.iter().enumerate() {
            let [before, after] = sides.map(|n| usize::try_from(n).unwrap_or(0));
            y = continued(builder, y, axis, [before, after], &mode)?;
        }
        return one(y);
    }
    let value = match call.optional(2) {
        Some(id) => builder.float_value(id, "the padding value")?,
        None => call.float_or("value", 0.0)?,
    };
    let x = crop(builder, x, &pads)?;
    let side = |i: usize| pads.iter().map(|p| usize::try_from(p[i]).unwrap_or(0)).collect::<Vec<_>>();
    let (before, after) = (side(0), side(1));
    if before.iter().chain(&after).all(|&n| n == 0) {
        return one(x);
    }
    let sizes = builder.shape(x).into_iter().zip(before.iter().zip(&after));
    let padded = sizes
        .map(|(size, (b, a))| size.checked_add(*b).and_then(|s| s.checked_add(*a)).unwrap_or(usize::MAX))
        .collect();
    one(builder.emit(Op::Pad { before, after, value }, &[x], padded)?)
}

/// `x` with elements of its own before and after it along `axis`.
fn continued(
    builder: &mut Builder,
    x: TensorId,
    axis: usize,
    [before, after]: [usize; 2],
    mode: &str,
) -> OpResult<TensorId> {
    if before + after == 0 {
        return Ok(x);
    }
    let n = builder.graph.shape(x)[axis];
    let reach = match mode {
        "reflect" => n.saturating_sub(1),
        "wrap" => n,
        "edge" => usize::MAX,
        other => return invalid(format!("unknown mode `{other}`")),
    };
    if n == 0 || before.max(after) > reach {
        return unsupported(format!("mode `{mode}` with pads beyond {reach} elements; use smaller pads"));
    }
    let mirrored = |builder: &mut Builder, start: usize, length: usize| {
        let mut shape = builder.shape(x);
        let (mut starts, mut steps) = (vec![0; shape.len()], vec![1; shape.len()]);
        (starts[axis], steps[axis], shape[axis]) = (start, -1, length);
        builder.slice(x, starts, steps, shape)
    };
    let repeated = |builder: &mut Builder, at: usize, length: usize| {
        let end = builder.narrow(x, axis, at, 1)?;
        let mut shape = builder.shape(x);
        shape[axis] = length;
        builder.expand(end, &shape)
    };
    let mut parts = Vec::new();
    if before > 0 {
        parts.push(match mode {
            "reflect" => mirrored(builder, before, before)?,
            "wrap" => builder.narrow(x, axis, n - before, before)?,
            _ => repeated(builder, 0, before)?,
        });
    }
    parts.push(x);
    if after > 0 {
        parts.push(match mode {
            "reflect" => mirrored(builder, n - 2, after)?,
            "wrap" => builder.narrow(x, axis, 0, after)?,
            _ => repeated(builder, n - 1, after)?,
        });
    }
    builder.concat(&parts, axis)
}

/// A cache with new elements written at constant places along an axis, a place per sample.
pub fn tensor_scatter(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (cache, update) = (call.input(0)?, call.input(1)?);
    let shape = builder.shape(cache);
    let axis = axis_index(call.int_or("axis", -2)?, shape.len())?;
    let circular = match call.text_or("mode", "linear")?.as_str() {
        "linear" => false,
        "circular" => true,
        other => return invalid(format!("unknown mode `{other}`")),
    };
    let (size, new) = (shape[axis], builder.graph.shape(update).get(axis).copied().unwrap_or(0));
    let mut expected = shape.clone();
    expected[axis] = new;
    if axis == 0 || builder.graph.shape(update) != expected || new > size {
        return invalid(format!("an update of shape {:?} in a cache of shape {shape:?}", builder.graph.shape(update)));
    }
    let starts = match call.optional(2) {
        Some(indices) => builder.ints(indices, "write_indices")?,
        None => vec![0; shape[0]],
    };
    if starts.len() != shape[0] {
        return invalid(format!("{} write_indices for {} samples", starts.len(), shape[0]));
    }
    let mut samples = Vec::with_capacity(shape[0]);
    for (sample, &start) in starts.iter().enumerate() {
        let own = builder.narrow(cache, 0, sample, 1)?;
        let fresh = builder.narrow(update, 0, sample, 1)?;
        let start = match usize::try_from(start) {
            Ok(start) if circular => start % size.max(1),
            Ok(start) if start + new <= size => start,
            _ => return invalid(format!("write index {start} in a cache of {size}")),
        };
        // What does not fit behind `start` goes on at the beginning.
        let before_end = new.min(size - start);
        let wrapped = new - before_end;
        let parts = [
            builder.narrow(fresh, axis, before_end, wrapped)?,
            builder.narrow(own, axis, wrapped, start - wrapped)?,
            builder.narrow(fresh, axis, 0, before_end)?,
            builder.narrow(own, axis, start + before_end, size - start - before_end)?,
        ];
        samples.push(builder.concat(&parts, axis)?);
    }
    one(builder.concat(&samples, 0)?)
}

/// Cuts or pads the dimensions around their middle.
pub fn center_crop_pad(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let mut x = call.input(0)?;
    let rank = builder.rank(x);
    let sizes = builder.ints(call.input(1)?, "the shape")?;
    let axes = call.ints("axes")?.unwrap_or_else(|| (0..rank as i64).collect());
    if axes.len() != sizes.len() {
        return invalid(format!("{} sizes for {} axes", sizes.len(), axes.len()));
    }
    for (&axis, &size) in axes.iter().zip(&sizes) {
        let axis = axis_index(axis, rank)?;
        let mut shape = builder.shape(x);
        let Ok(size) = usize::try_from(size) else { return invalid("a size is negative") };
        if size <= shape[axis] {
            x = builder.narrow(x, axis, (shape[axis] - size) / 2, size)?;
            continue;
        }
        let missing = size - shape[axis];
        let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
        (before[axis], after[axis], shape[axis]) = (missing / 2, missing - missing / 2, size);
        x = builder.emit(Op::Pad { before, after, value: 0.0 }, &[x], shape)?;
    }
    one(x)
}

/// Cuts what negative pads take away.
fn crop(builder: &mut Builder, x: TensorId, pads: &[[i64; 2]]) -> OpResult<TensorId> {
    let mut shape = builder.shape(x);
    let cut = |pad: i64| usize::try_from(pad.saturating_neg()).unwrap_or(0);
    let starts = pads.iter().map(|p| cut(p[0])).collect();
    for (size, pad) in shape.iter_mut().zip(pads) {
        match size.checked_sub(cut(pad[0])).and_then(|s| s.checked_sub(cut(pad[1]))) {
            Some(left) => *size = left,
            None => return invalid("the pads cut more than there is"),
        }
    }
    let steps = vec![1; shape.len()];
    builder.slice(x, starts, steps, shape)
}

/// `[batch, c, h, w]` and the size of blocks.
fn blocks(builder: &Builder, call: &Call) -> OpResult<([usize; 4], usize)> {
    let block = usize::try_from(call.int_or("blocksize", 0)?).unwrap_or(0);
    match builder.graph.shape(call.input(0)?) {
        &[batch, c, h, w] if block > 0 && block < 1 << 16 => Ok(([batch, c, h, w], block)),
        shape => invalid(format!("blocks of {block} in a tensor of shape {shape:?}")),
    }
}

pub fn depth_to_space(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let ([batch, c, h, w], block) = blocks(builder, call)?;
    let depth = c / (block * block);
    if depth * block * block != c {
        return invalid(format!("{c} channels do not divide into blocks of {block} x {block}"));
    }
    let (shape, perm) = match call.text_or("mode", "DCR")?.as_str() {
        "DCR" => ([batch, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([batch, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        other => return invalid(format!("unknown mode `{other}`")),
    };
    let x = builder.reshape(call.input(0)?, &shape)?;
    let x = builder.transpose(x, &perm)?;
    one(builder.reshape(x, &[batch, depth, h * block, w * block])?)
}

pub fn space_to_depth(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let ([batch, c, h, w], block) = blocks(builder, call)?;
    let (rows, columns) = (h / block, w / block);
    let x = builder.reshape(call.input(0)?, &[batch, c, rows, block, columns, block])?;
    let x = builder.transpose(x, &[0, 3, 5, 1, 2, 4])?;
    one(builder.reshape(x, &[batch, c * block * block, rows, columns])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_python() {
        assert_eq!(range(0, i64::MAX, 1, 5), (0, 5));
        assert_eq!(range(-3, -1, 1, 5), (2, 2));
        assert_eq!(range(-1, i64::MIN, -1, 5), (4, 5));
        assert_eq!(range(10, 0, -2, 5), (4, 2));
        assert_eq!(range(3, 1, 1, 5), (0, 0));
        assert_eq!(range(1, 5, i64::MAX, 5), (1, 1));
        assert_eq!(range(0, 5, 1, 0), (0, 0));
    }

    #[test]
    fn reshape_takes_zero_and_minus_one() {
        assert_eq!(resolve_shape(&[2, 3, 4], &[0, -1], false).unwrap(), [2, 12]);
        assert_eq!(resolve_shape(&[0, 3], &[0, 3], true).unwrap(), [0, 3]);
        assert!(resolve_shape(&[2, 3], &[-1, -1], false).is_err());
        assert!(resolve_shape(&[2, 3], &[4, -1], false).is_err());
        assert!(resolve_shape(&[2], &[2, 0], false).is_err());
    }

    #[test]
    fn equal_parts_leave_the_last_shorter() {
        assert_eq!(equal_parts(7, 3).unwrap(), [3, 3, 1]);
        assert!(equal_parts(4, 3).is_ok());
        assert!(equal_parts(2, 3).is_err());
    }
}
