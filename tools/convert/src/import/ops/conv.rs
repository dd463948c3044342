//! Convolutions and pooling over one or two dimensions.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::matmul::activated;
use crate::graph::{Binary, DataType, Op, Reduce, TensorId, Unary, Window};

/// Sizes of a window over `rank` dimensions, and of its result.
struct Geometry {
    window: Window,
    /// Rows and columns of the result.
    out: [usize; 2],
    /// Padding that only the last, partial window of `ceil_mode` reads.
    overhang: [usize; 2],
}

/// `value` of every dimension, one-dimensional windows get a first dimension of size `unit`.
fn pair(values: Option<Vec<i64>>, rank: usize, default: usize, unit: usize, what: &str) -> OpResult<[usize; 2]> {
    let values = match values {
        None => vec![default; rank],
        Some(values) if values.len() == rank => {
            let positive = |v: i64| usize::try_from(v).ok().filter(|&v| v > 0 && v < 1 << 24);
            match values.into_iter().map(positive).collect::<Option<Vec<_>>>() {
                Some(values) => values,
                None => return invalid(format!("{what} must be positive")),
            }
        }
        Some(values) => return invalid(format!("{what} has {} values for {rank} dimensions", values.len())),
    };
    Ok(if rank == 1 { [unit, values[0]] } else { [values[0], values[1]] })
}

/// The geometry of a window of `kernel` over `size` rows and columns; `rank` is 1 or 2.
fn geometry(call: &Call, rank: usize, kernel: [usize; 2], size: [usize; 2], groups: usize) -> OpResult<Geometry> {
    let strides = pair(call.ints("strides")?, rank, 1, 1, "strides")?;
    let dilations = pair(call.ints("dilations")?, rank, 1, 1, "dilations")?;
    call.ignore(&["ceil_mode", "kernel_shape", "count_include_pad"]);
    let ceil = call.int_or("ceil_mode", 0)? != 0;
    let explicit = call.ints("pads")?;
    let mode = call.text_or("auto_pad", "NOTSET")?;
    let mut window = Window { kernel, strides, pads: [0; 4], dilations, groups };
    let (mut out, mut overhang) = ([0; 2], [0; 2]);
    for d in 0..2 {
        // A one-dimensional window has no padding above and below.
        let axis = (d + rank).checked_sub(2);
        let extent = dilations[d] * (kernel[d] - 1) + 1;
        let given = match (&explicit, axis) {
            (Some(pads), Some(axis)) if mode == "NOTSET" => pads_of(pads, axis, rank)?,
            _ => [0, 0],
        };
        let [before, after] = match (mode.as_str(), axis) {
            ("NOTSET" | "VALID", _) | (_, None) => given,
            ("SAME_UPPER" | "SAME_LOWER", _) => {
                let total =
                    (size[d].div_ceil(strides[d]).saturating_sub(1) * strides[d] + extent).saturating_sub(size[d]);
                let less = total / 2;
                if mode == "SAME_UPPER" { [less, total - less] } else { [total - less, less] }
            }
            (other, _) => return invalid(format!("unknown auto_pad `{other}`")),
        };
        let padded = size[d] + before + after;
        let Some(span) = padded.checked_sub(extent) else {
            return invalid(format!("a window of {extent} does not fit into {padded} elements"));
        };
        out[d] = span / strides[d] + 1;
        // A partial window counts where it starts inside the input or the padding before it.
        if ceil && span % strides[d] != 0 && out[d] * strides[d] < size[d] + before {
            overhang[d] = out[d] * strides[d] + extent - padded;
            out[d] += 1;
        }
        (window.pads[d], window.pads[d + 2]) = (before, after + overhang[d]);
    }
    Ok(Geometry { window, out, overhang })
}

/// Padding before and after dimension `axis`.
fn pads_of(pads: &[i64], axis: usize, rank: usize) -> OpResult<[usize; 2]> {
    if pads.len() != 2 * rank {
        return invalid(format!("pads has {} values for {rank} dimensions", pads.len()));
    }
    match (usize::try_from(pads[axis]), usize::try_from(pads[axis + rank])) {
        (Ok(before), Ok(after)) if before.max(after) < 1 << 24 => Ok([before, after]),
        _ => invalid("pads must not be negative"),
    }
}

/// `x [batch, c, l]` as `[batch, c, 1, l]`, with its number of spatial dimensions.
fn as_image(builder: &mut Builder, x: TensorId) -> OpResult<(TensorId, usize)> {
    match builder.shape(x)[..] {
        [batch, c, l] => Ok((builder.reshape(x, &[batch, c, 1, l])?, 1)),
        [_, _, _, _] => Ok((x, 2)),
        ref shape => unsupported(format!("an operand of shape {shape:?}; use one or two spatial dimensions")),
    }
}

/// Drops the row dimension that `as_image` made.
fn from_image(builder: &mut Builder, y: TensorId, rank: usize) -> OpResult<TensorId> {
    match builder.shape(y)[..] {
        [batch, c, _, l] if rank == 1 => builder.reshape(y, &[batch, c, l]),
        _ => Ok(y),
    }
}

/// The convolution of `x` with constant weights and bias; the node gives the geometry.
pub fn convolve(
    builder: &mut Builder,
    call: &Call,
    x: TensorId,
    w: TensorId,
    bias: Option<TensorId>,
) -> OpResult<TensorId> {
    let (x, rank) = as_image(builder, x)?;
    if !builder.is_constant(w) {
        return unsupported("weights must be constant");
    }
    let (w, weight_rank) = as_image(builder, w)?;
    let [_, c, height, width] = builder.dims(x)?;
    let [n, per_group, kh, kw] = builder.dims(w)?;
    let groups = usize::try_from(call.int_or("group", 1)?).unwrap_or(0);
    let grouped = groups > 0 && n % groups == 0 && per_group.checked_mul(groups) == Some(c);
    let declared = call.ints("kernel_shape")?;
    if weight_rank != rank
        || !grouped
        || kh * kw == 0
        || declared.is_some() && pair(declared, rank, 1, 1, "kernel_shape")? != [kh, kw]
    {
        return invalid(format!(
            "{c} channels do not match weights of {n} x {per_group} x {kh} x {kw} in {groups} groups"
        ));
    }
    let Geometry { window, out, .. } = geometry(call, rank, [kh, kw], [height, width], groups)?;
    let mut inputs = vec![x, w];
    if let Some(bias) = bias {
        if builder.graph.shape(bias) != [n] || !builder.is_constant(bias) {
            return unsupported(format!("the bias must be a constant of {n} values"));
        }
        inputs.push(bias);
    }
    let y = batched(builder, Op::Conv2d(window), &inputs, [n, out[0], out[1]])?;
    from_image(builder, y, rank)
}

/// A convolution image by image: the integer form takes one.
fn batched(builder: &mut Builder, op: Op, inputs: &[TensorId], [n, h, w]: [usize; 3]) -> OpResult<TensorId> {
    let [batch, ..] = builder.dims::<4>(inputs[0])?;
    if batch == 1 || builder.is_constant(inputs[0]) {
        return builder.emit(op, inputs, vec![batch, n, h, w]);
    }
    let mut operands = inputs.to_vec();
    let mut images = Vec::with_capacity(batch);
    for image in 0..batch {
        operands[0] = builder.narrow(inputs[0], 0, image, 1)?;
        images.push(builder.emit(op.clone(), &operands, vec![1, n, h, w])?);
    }
    builder.concat(&images, 0)
}

pub fn conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(convolve(builder, call, call.input(0)?, call.input(1)?, call.optional(2))?)
}

/// onnxruntime's convolution with an addend and an activation.
pub fn fused_conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let mut y = convolve(builder, call, call.input(0)?, call.input(1)?, call.optional(2))?;
    if let Some(addend) = call.optional(3) {
        y = builder.binary(Binary::Add, y, addend)?;
    }
    one(activated(builder, call, y)?)
}

fn pool_geometry(builder: &mut Builder, call: &Call) -> OpResult<(TensorId, usize, Geometry)> {
    let (x, rank) = as_image(builder, call.input(0)?)?;
    let shape = builder.shape(x);
    if builder.dtype(x) != DataType::Float {
        return unsupported("pooling of integers; use Cast to float before");
    }
    let Some(kernel) = call.ints("kernel_shape")? else { return invalid("kernel_shape is missing") };
    let kernel = pair(Some(kernel), rank, 1, 1, "kernel_shape")?;
    let geometry = geometry(call, rank, kernel, [shape[2], shape[3]], 1)?;
    Ok((x, rank, geometry))
}

pub fn max_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    if call.wants(1) {
        return unsupported("its output Indices; use MaxPool with its first output alone");
    }
    let (x, rank, Geometry { window, out, .. }) = pool_geometry(builder, call)?;
    let y = pooled(builder, Op::MaxPool(window), x, out)?;
    one(from_image(builder, y, rank)?)
}

pub fn average_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, rank, Geometry { window, out, overhang }) = pool_geometry(builder, call)?;
    let count_include_pad = call.int_or("count_include_pad", 0)? != 0;
    if count_include_pad && overhang != [0, 0] {
        return unsupported("count_include_pad together with partial windows of ceil_mode; use explicit pads");
    }
    let y = pooled(builder, Op::AveragePool { window, count_include_pad }, x, out)?;
    one(from_image(builder, y, rank)?)
}

/// Pooling of `x [batch, c, h, w]`; the images of a batch are more channels.
fn pooled(builder: &mut Builder, op: Op, x: TensorId, [h, w]: [usize; 2]) -> OpResult<TensorId> {
    let [batch, c, height, width] = builder.dims(x)?;
    let x = builder.reshape(x, &[1, batch * c, height, width])?;
    let y = builder.emit(op, &[x], vec![1, batch * c, h, w])?;
    builder.reshape(y, &[batch, c, h, w])
}

pub fn global_pool(builder: &mut Builder, call: &Call, kind: Reduce) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axes = (2..builder.rank(x)).collect();
    one(builder.reduce(kind, x, axes, true)?)
}

/// A transposed convolution: the operand with zeros between its elements, convolved with the mirrored kernel. Where
/// kernels do not overlap each element of the operand makes a block of its own.
pub fn conv_transpose(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, rank) = as_image(builder, call.input(0)?)?;
    let w = call.input(1)?;
    if !builder.is_constant(w) || call.optional(2).is_some_and(|bias| !builder.is_constant(bias)) {
        return unsupported("weights and bias must be constant");
    }
    let (w, weight_rank) = as_image(builder, w)?;
    let [_, c, height, width] = builder.dims(x)?;
    let [channels, per_group, kh, kw] = builder.dims(w)?;
    let groups = usize::try_from(call.int_or("group", 1)?).unwrap_or(0);
    call.ignore(&["kernel_shape"]);
    if weight_rank != rank || channels != c || groups == 0 || c % groups != 0 || kh * kw == 0 {
        return invalid(format!("{c} channels do not match weights of {channels} x {per_group} in {groups} groups"));
    }
    let strides = pair(call.ints("strides")?, rank, 1, 1, "strides")?;
    let dilations = pair(call.ints("dilations")?, rank, 1, 1, "dilations")?;
    let sides = transposed_sides(call, rank, [height, width], [kh, kw], strides, dilations)?;
    let n = per_group * groups;
    let bias = call.optional(2);
    if let Some(bias) = bias
        && builder.graph.shape(bias) != [n]
    {
        return invalid(format!("the bias must have {n} values"));
    }
    let apart = groups == 1 && strides == [kh, kw] && dilations == [1, 1] && sides.iter().all(|&side| side >= 0);
    let y = if apart {
        let y = blocks_apart(builder, x, w, bias)?;
        cut(builder, y, sides)?
    } else {
        let w = mirrored(builder, w, groups)?;
        let spread = spread(builder, x, strides)?;
        overlapping(builder, spread, w, bias, sides, dilations, groups)?
    };
    one(from_image(builder, y, rank)?)
}

/// Elements to cut, or where negative to add, at top, left, bottom and right of the whole result.
fn transposed_sides(
    call: &Call,
    rank: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
) -> OpResult<[i64; 4]> {
    let mode = call.text_or("auto_pad", "NOTSET")?;
    let (pads, extra) = (call.ints("pads")?, call.ints("output_padding")?);
    let wanted = call.ints("output_shape")?;
    let mut sides = [0i64; 4];
    for d in 0..2 {
        let Some(axis) = (d + rank).checked_sub(2) else { continue };
        let extent = (dilations[d] * (kernel[d] - 1) + 1) as i64;
        let whole = (strides[d] * (size[d] - 1)) as i64 + extent;
        let at = |list: &Option<Vec<i64>>, index: usize| match list {
            Some(list) => match list.get(index) {
                Some(&value) if (0..1 << 24).contains(&value) => Ok(value),
                _ => invalid("pads, output_padding or output_shape do not fit the operand"),
            },
            None => Ok(0),
        };
        let extra = at(&extra, axis)?;
        let target = match (&wanted, mode.as_str()) {
            // The batch and the channels may stand before it.
            (Some(list), _) => Some(at(&wanted, list.len().saturating_sub(rank) + axis)?),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some((size[d] * strides[d]) as i64),
            (None, "NOTSET" | "VALID") => None,
            (None, other) => return invalid(format!("unknown auto_pad `{other}`")),
        };
        let [before, after] = match target {
            Some(target) => {
                let total = whole + extra - target;
                let less = total.div_euclid(2);
                if mode == "SAME_UPPER" { [less, total - less] } else { [total - less, less] }
            }
            None if mode == "VALID" => [0, 0],
            None => [at(&pads, axis)?, at(&pads, axis + rank)?],
        };
        (sides[d], sides[d + 2]) = (before, after - extra);
    }
    Ok(sides)
}

/// Every element of `x` as a block of its own: a 1 x 1 convolution to the elements of blocks.
fn blocks_apart(builder: &mut Builder, x: TensorId, w: TensorId, bias: Option<TensorId>) -> OpResult<TensorId> {
    let [batch, c, h, width] = builder.dims(x)?;
    let [_, n, kh, kw] = builder.dims(w)?;
    let turned = builder.transpose(w, &[1, 2, 3, 0])?;
    let weights = builder.reshape(turned, &[n * kh * kw, c, 1, 1])?;
    let mut inputs = vec![x, weights];
    if let Some(bias) = bias {
        let column = builder.reshape(bias, &[n, 1])?;
        let wide = builder.expand(column, &[n, kh * kw])?;
        inputs.push(builder.reshape(wide, &[n * kh * kw])?);
    }
    let window = Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4], dilations: [1, 1], groups: 1 };
    let y = batched(builder, Op::Conv2d(window), &inputs, [n * kh * kw, h, width])?;
    let y = builder.reshape(y, &[batch, n, kh, kw, h, width])?;
    let y = builder.transpose(y, &[0, 1, 4, 2, 5, 3])?;
    builder.reshape(y, &[batch, n, h * kh, width * kw])
}

/// `w [c, n / groups, kh, kw]` as `[n, c / groups, kh, kw]` with rows and columns in reverse.
fn mirrored(builder: &mut Builder, w: TensorId, groups: usize) -> OpResult<TensorId> {
    let [c, per_group, kh, kw] = builder.dims(w)?;
    let w = builder.reshape(w, &[groups, c / groups, per_group, kh, kw])?;
    let w = builder.transpose(w, &[0, 2, 1, 3, 4])?;
    let w = builder.reshape(w, &[groups * per_group, c / groups, kh, kw])?;
    let shape = builder.shape(w);
    builder.slice(w, vec![0, 0, kh - 1, kw - 1], vec![1, 1, -1, -1], shape)
}

/// `x` with zeros between its rows and columns.
fn spread(builder: &mut Builder, x: TensorId, strides: [usize; 2]) -> OpResult<TensorId> {
    if strides == [1, 1] {
        return Ok(x);
    }
    let [batch, c, h, w] = builder.dims(x)?;
    let apart = builder.reshape(x, &[batch, c, h, 1, w, 1])?;
    let after = vec![0, 0, 0, strides[0] - 1, 0, strides[1] - 1];
    let op = Op::Pad { before: vec![0; 6], after, value: 0.0 };
    let padded = builder.emit(op, &[apart], vec![batch, c, h, strides[0], w, strides[1]])?;
    let whole = builder.reshape(padded, &[batch, c, h * strides[0], w * strides[1]])?;
    let shape = vec![batch, c, (h - 1) * strides[0] + 1, (w - 1) * strides[1] + 1];
    builder.slice(whole, vec![0; 4], vec![1; 4], shape)
}

/// The convolution of `x` with mirrored kernels, less `sides` elements at each side.
fn overlapping(
    builder: &mut Builder,
    x: TensorId,
    w: TensorId,
    bias: Option<TensorId>,
    sides: [i64; 4],
    dilations: [usize; 2],
    groups: usize,
) -> OpResult<TensorId> {
    let [_, _, h, width] = builder.dims(x)?;
    let [n, _, kh, kw] = builder.dims(w)?;
    let reach = [dilations[0] * (kh - 1), dilations[1] * (kw - 1)];
    // Padding as far as kernels reach gives the whole result; what is beyond its padding is cut.
    let whole = [0, 1, 2, 3].map(|side| reach[side % 2] as i64 - sides[side]);
    let pads = whole.map(|pad| usize::try_from(pad).unwrap_or(0));
    let rest = whole.map(|pad| (-pad).max(0));
    let padded = [h + pads[0] + pads[2], width + pads[1] + pads[3]];
    let (Some(rows), Some(columns)) = (padded[0].checked_sub(reach[0]), padded[1].checked_sub(reach[1])) else {
        return invalid("the pads cut more than there is");
    };
    if rows == 0 || columns == 0 {
        return invalid("the pads cut more than there is");
    }
    let window = Window { kernel: [kh, kw], strides: [1, 1], pads, dilations, groups };
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    let y = batched(builder, Op::Conv2d(window), &inputs, [n, rows, columns])?;
    cut(builder, y, rest)
}

/// `y` without `sides` elements at top, left, bottom and right.
fn cut(builder: &mut Builder, y: TensorId, sides: [i64; 4]) -> OpResult<TensorId> {
    let sides = sides.map(|n| usize::try_from(n).unwrap_or(0));
    let mut shape = builder.shape(y);
    for d in 0..2 {
        match shape[d + 2].checked_sub(sides[d] + sides[d + 2]) {
            Some(left) if left > 0 => shape[d + 2] = left,
            _ => return invalid("the pads cut more than there is"),
        }
    }
    builder.slice(y, vec![0, 0, sides[0], sides[1]], vec![1; 4], shape)
}

/// The root of order `p` of the sum of powers in a window.
pub fn lp_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let order = call.int_or("p", 2)?;
    let (x, rank, Geometry { window, out, .. }) = pool_geometry(builder, call)?;
    let powers = power(builder, x, order)?;
    let sum = window_sum(builder, powers, &window, out)?;
    let y = root(builder, sum, order)?;
    one(from_image(builder, y, rank)?)
}

/// Most elements of a window that are added one by one.
const MAX_TAPS: usize = 64;

/// The sum over every window, element by element: the average of 8-bit powers would be too coarse for a root.
fn window_sum(builder: &mut Builder, x: TensorId, window: &Window, out: [usize; 2]) -> OpResult<TensorId> {
    let mut shape = builder.shape(x);
    let [kh, kw] = window.kernel;
    if kh * kw > MAX_TAPS {
        return unsupported(format!("windows of {kh} x {kw}; use AveragePool"));
    }
    let [top, left, bottom, right] = window.pads;
    (shape[2], shape[3]) = (shape[2] + top + bottom, shape[3] + left + right);
    let op = Op::Pad { before: vec![0, 0, top, left], after: vec![0, 0, bottom, right], value: 0.0 };
    let padded = if window.pads == [0; 4] { x } else { builder.emit(op, &[x], shape.clone())? };
    (shape[2], shape[3]) = (out[0], out[1]);
    let steps = vec![1, 1, window.strides[0] as isize, window.strides[1] as isize];
    let mut sum = None;
    for tap in 0..kh * kw {
        let starts = vec![0, 0, tap / kw * window.dilations[0], tap % kw * window.dilations[1]];
        let part = builder.slice(padded, starts, steps.clone(), shape.clone())?;
        sum = Some(match sum {
            Some(sum) => builder.binary(Binary::Add, sum, part)?,
            None => part,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => invalid("an empty window"),
    }
}

pub fn global_lp_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let order = call.int_or("p", 2)?;
    let x = call.input(0)?;
    let powers = power(builder, x, order)?;
    let axes = (2..builder.rank(x)).collect();
    let sum = builder.reduce(Reduce::Sum, powers, axes, true)?;
    one(root(builder, sum, order)?)
}

/// `|x|^order`.
fn power(builder: &mut Builder, x: TensorId, order: i64) -> OpResult<TensorId> {
    match order {
        1 => builder.unary(Unary::Abs, x),
        2 => builder.binary(Binary::Mul, x, x),
        3.. => {
            let size = builder.unary(Unary::Abs, x)?;
            let exponent = builder.scalar(order as f32);
            builder.binary(Binary::Pow, size, exponent)
        }
        _ => invalid(format!("p is {order}")),
    }
}

fn root(builder: &mut Builder, x: TensorId, order: i64) -> OpResult<TensorId> {
    match order {
        1 => Ok(x),
        2 => builder.unary(Unary::Sqrt, x),
        _ => {
            let exponent = builder.scalar(1.0 / order as f32);
            builder.binary(Binary::Pow, x, exponent)
        }
    }
}
