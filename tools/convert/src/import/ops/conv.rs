//! Convolutions and pooling over one or two dimensions.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, invalid, one, unsupported};
use super::matmul::activated;
use crate::graph::{Binary, DataType, Op, Reduce, TensorId, Window};

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
        ref shape => unsupported(format!("an operand of shape {shape:?}; nearest: one or two spatial dimensions")),
    }
}

/// Drops the row dimension that `as_image` made.
fn from_image(builder: &mut Builder, y: TensorId, rank: usize) -> OpResult<TensorId> {
    match builder.shape(y)[..] {
        [batch, c, _, l] if rank == 1 => builder.reshape(y, &[batch, c, l]),
        _ => Ok(y),
    }
}

fn convolve(builder: &mut Builder, call: &Call) -> OpResult<TensorId> {
    let (x, rank) = as_image(builder, call.input(0)?)?;
    let w = call.input(1)?;
    if !builder.is_constant(w) {
        return unsupported("weights must be constant");
    }
    let (w, weight_rank) = as_image(builder, w)?;
    let [batch, c, height, width] = builder.dims(x)?;
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
            "{c} channels do not go with weights of {n} x {per_group} x {kh} x {kw} in {groups} groups"
        ));
    }
    let Geometry { window, out, .. } = geometry(call, rank, [kh, kw], [height, width], groups)?;
    let mut inputs = vec![x, w];
    if let Some(bias) = call.optional(2) {
        if builder.graph.shape(bias) != [n] || !builder.is_constant(bias) {
            return unsupported(format!("the bias must be a constant of {n} values"));
        }
        inputs.push(bias);
    }
    let y = builder.emit(Op::Conv2d(window), &inputs, vec![batch, n, out[0], out[1]])?;
    from_image(builder, y, rank)
}

pub fn conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    one(convolve(builder, call)?)
}

/// onnxruntime's convolution with an addend and an activation.
pub fn fused_conv(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let mut y = convolve(builder, call)?;
    if let Some(addend) = call.optional(3) {
        y = builder.binary(Binary::Add, y, addend)?;
    }
    one(activated(builder, call, y)?)
}

fn pool_geometry(builder: &mut Builder, call: &Call) -> OpResult<(TensorId, usize, Geometry)> {
    let (x, rank) = as_image(builder, call.input(0)?)?;
    let shape = builder.shape(x);
    if builder.dtype(x) != DataType::Float {
        return unsupported("pooling of integers; nearest: Cast to float before");
    }
    let Some(kernel) = call.ints("kernel_shape")? else { return invalid("kernel_shape is missing") };
    let kernel = pair(Some(kernel), rank, 1, 1, "kernel_shape")?;
    let geometry = geometry(call, rank, kernel, [shape[2], shape[3]], 1)?;
    Ok((x, rank, geometry))
}

pub fn max_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, rank, Geometry { window, out, .. }) = pool_geometry(builder, call)?;
    let shape = builder.shape(x);
    let y = builder.emit(Op::MaxPool(window), &[x], vec![shape[0], shape[1], out[0], out[1]])?;
    one(from_image(builder, y, rank)?)
}

pub fn average_pool(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let (x, rank, Geometry { window, out, overhang }) = pool_geometry(builder, call)?;
    let count_include_pad = call.int_or("count_include_pad", 0)? != 0;
    if count_include_pad && overhang != [0, 0] {
        return unsupported("count_include_pad together with partial windows of ceil_mode; nearest: explicit pads");
    }
    let shape = builder.shape(x);
    let op = Op::AveragePool { window, count_include_pad };
    let y = builder.emit(op, &[x], vec![shape[0], shape[1], out[0], out[1]])?;
    one(from_image(builder, y, rank)?)
}

pub fn global_pool(builder: &mut Builder, call: &Call, kind: Reduce) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let axes = (2..builder.rank(x)).collect();
    one(builder.reduce(kind, x, axes, true)?)
}
