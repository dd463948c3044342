//! Convolutions and pooling.

use super::operand::Image;
use super::products::Gemm;
use crate::graph::{Data, Graph, Op, Window};
use std::borrow::Cow;

/// For every window element of one output pixel the input row and column, where inside the image.
pub fn taps(
    window: &Window,
    y: usize,
    x: usize,
    h: usize,
    w: usize,
) -> impl Iterator<Item = Option<(usize, usize)>> + '_ {
    let place = move |out: usize, i: usize, d: usize, size: usize| {
        let at = (out * window.strides[d] + i * window.dilations[d]).checked_sub(window.pads[d])?;
        (at < size).then_some(at)
    };
    (0..window.kernel[0])
        .flat_map(move |i| (0..window.kernel[1]).map(move |j| Some((place(y, i, 0, h)?, place(x, j, 1, w)?))))
}

/// The window contents of every output pixel of an ungrouped convolution: rows of `kernel_h * kernel_w * channels`,
/// channels fastest, zeros outside the image. `None` where `x` (`[batch, c, h, w]`) does not fit `out` (`[.., oh, ow]`).
pub fn patches(shape: &[usize], x: &[f32], window: &Window, out: &[usize]) -> Option<Vec<f32>> {
    let ([_, c, h, w], [_, _, oh, ow]) = (shape, out) else { return None };
    let n_taps = window.kernel[0] * window.kernel[1];
    let mut rows = Vec::with_capacity(x.len() / (c * h * w).max(1) * oh * ow * n_taps * c);
    for image in x.chunks_exact((c * h * w).max(1)) {
        for pixel in 0..oh * ow {
            for at in taps(window, pixel / ow, pixel % ow, *h, *w) {
                rows.extend(
                    (0..*c).map(|channel| at.map_or(0.0, |(row, column)| image[channel * h * w + row * w + column])),
                );
            }
        }
    }
    Some(rows)
}

/// What tap `tap` of the windows of all output pixels, rows of `width`, sees of a plane; zeros outside of it.
fn shifted(plane: &[f32], [h, w]: [usize; 2], window: &Window, tap: [usize; 2], width: usize, to: &mut [f32]) {
    let [row, column] = [0, 1].map(|d| tap[d] * window.dilations[d]);
    let stride = window.strides[1].max(1);
    // The outputs whose tap lies in a row of the plane.
    let first = window.pads[1].saturating_sub(column).div_ceil(stride).min(width);
    let end = (w + window.pads[1]).saturating_sub(column).div_ceil(stride).clamp(first, width);
    for (y, to) in to.chunks_exact_mut(width.max(1)).enumerate() {
        let from = (y * window.strides[0] + row).checked_sub(window.pads[0]).filter(|&at| at < h);
        let Some(from) = from.and_then(|at| plane.get(at * w..(at + 1) * w)) else {
            to.fill(0.0);
            continue;
        };
        to[..first].fill(0.0);
        to[end..].fill(0.0);
        let from = from.iter().skip((first * stride + column).saturating_sub(window.pads[1])).step_by(stride);
        to[first..end].iter_mut().zip(from).for_each(|(to, &from)| *to = from);
    }
}

pub(super) fn conv2d(
    x: Image<'_>,
    w: Image<'_>,
    bias: Option<&[f32]>,
    window: &Window,
    shape: &[usize],
) -> Option<Data> {
    let ([batch, c, h, width], [n, group_c, ..], [_, _, oh, ow]) = (x.0, w.0, shape) else { return None };
    let groups = window.groups.max(1);
    let n_taps = window.kernel[0] * window.kernel[1];
    let (group_n, k, pixels) = (n / groups, group_c * n_taps, oh * ow);
    let mut out = vec![0.0; batch * n * pixels];
    // Windows of one element are the planes themselves.
    let planes = n_taps == 1 && window.strides == [1, 1] && window.pads[..2] == [0, 0] && [*h, *width] == [*oh, *ow];
    let mut copied = vec![0.0; if planes { 0 } else { k * pixels }];
    for (image, out) in x.1.chunks_exact(c * h * width).zip(out.chunks_exact_mut(n * pixels)) {
        for group in 0..groups {
            let image = image.get(group * group_c * h * width..)?;
            if !planes {
                let rows = copied.chunks_exact_mut(pixels.max(1)).enumerate();
                for (row, column) in rows {
                    let plane = image.get(row / n_taps * h * width..)?.get(..h * width)?;
                    let tap = [row % n_taps / window.kernel[1], row % n_taps % window.kernel[1]];
                    shifted(plane, [*h, *width], window, tap, *ow, column);
                }
            }
            let columns = if planes { image } else { &copied };
            let weights = w.1.get(group * group_n * k..)?;
            let out = out.get_mut(group * group_n * pixels..(group + 1) * group_n * pixels)?;
            Gemm { m: group_n, k, n: pixels, a_strides: [k, 1], b_strides: [pixels, 1] }.run(weights, columns, out)?;
        }
        if let Some(bias) = bias {
            for (row, b) in out.chunks_exact_mut(pixels).zip(bias) {
                row.iter_mut().for_each(|y| *y += b);
            }
        }
    }
    Some(Data::Float(out))
}

pub(super) fn pool(
    x: Image<'_>,
    window: &Window,
    shape: &[usize],
    f: impl Fn(&mut dyn Iterator<Item = f32>, usize) -> f32,
) -> Option<Data> {
    let ([_, _, h, w], [_, _, oh, ow]) = (x.0, shape) else { return None };
    let mut out = Vec::with_capacity(shape.iter().product());
    for plane in x.1.chunks_exact((h * w).max(1)) {
        for pixel in 0..oh * ow {
            let mut values = taps(window, pixel / ow, pixel % ow, *h, *w).flatten().map(|(r, c)| plane[r * w + c]);
            out.push(f(&mut values, window.kernel[0] * window.kernel[1]));
        }
    }
    Some(Data::Float(out))
}

/// The rows a dense node multiplies its weights with, and their width.
pub fn dense_rows<'a>(graph: &Graph, node: usize, values: &'a [f32]) -> (Cow<'a, [f32]>, usize) {
    let node = &graph.nodes[node];
    let x = graph.shape(node.inputs[0]);
    if let Op::Conv2d(window) = &node.op {
        let width = graph.shape(node.inputs[1]).iter().skip(1).product::<usize>().max(1);
        let rows = patches(x, values, window, graph.shape(node.output)).unwrap_or_default();
        return (Cow::Owned(rows), width);
    }
    (Cow::Borrowed(values), x.last().copied().unwrap_or(1).max(1))
}
