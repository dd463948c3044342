//! Resize and Upsample by constant factors: a matrix along every resized dimension, or repeated elements.
//!
//! The formulas are those of the operator's specification: a coordinate of the output becomes one of the input, around
//! which nearest, linear or cubic weights lie.

use super::super::builder::Builder;
use super::super::node::{Call, OpResult, Outputs, axis_index, invalid, one, unsupported};
use crate::graph::{Data, DataType, TensorId};

/// From a coordinate of the output to one of the input.
#[derive(Clone, Copy, PartialEq)]
enum Transformation {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize { start: f64, end: f64, outside: f64 },
}

/// How values between those of the input arise.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest(Rounding),
    Linear,
    Cubic { a: f64 },
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// One dimension that is resized.
struct Axis {
    from: usize,
    to: usize,
    scale: f64,
    transformation: Transformation,
    exclude_outside: bool,
    antialias: bool,
}

impl Axis {
    /// In the arithmetic of the operator's `f32` factors: whether a coordinate is a whole number decides between neighbours.
    fn source(&self, i: usize) -> f64 {
        let (i, from, to, scale) = (i as f32, self.from as f32, self.to as f32, self.scale as f32);
        f64::from(match self.transformation {
            Transformation::HalfPixel => (i + 0.5) / scale - 0.5,
            Transformation::HalfPixelSymmetric => {
                let adjustment = to / (scale * from);
                from / 2.0 * (1.0 - adjustment) + (i + 0.5) / scale - 0.5
            }
            Transformation::PytorchHalfPixel if to > 1.0 => (i + 0.5) / scale - 0.5,
            Transformation::PytorchHalfPixel => 0.0,
            Transformation::AlignCorners if self.to > 1 => {
                // The factor of the model decides, not the rounded size.
                i * (from - 1.0) / (scale * from - 1.0)
            }
            Transformation::AlignCorners => 0.0,
            Transformation::Asymmetric => i / scale,
            Transformation::CropAndResize { start, end, .. } if self.to > 1 => {
                start as f32 * (from - 1.0) + i * (end - start) as f32 * (from - 1.0) / (scale * from - 1.0)
            }
            Transformation::CropAndResize { start, end, .. } => 0.5 * (start + end) as f32 * (from - 1.0),
        })
    }

    /// Weights of the elements of the input for element `i` of the output, and what is added.
    fn row(&self, i: usize, mode: Mode) -> (Vec<f64>, f64) {
        let mut row = vec![0.0; self.from];
        let x = self.source(i);
        let last = self.from as f64 - 1.0;
        if let Transformation::CropAndResize { outside, .. } = self.transformation
            && !(0.0..=last).contains(&x)
        {
            return (row, outside);
        }
        let weight = |mode: Mode, distance: f64| -> f64 {
            let t = distance.abs();
            match mode {
                Mode::Nearest(_) => 0.0,
                Mode::Linear => (1.0 - t).max(0.0),
                Mode::Cubic { a } if t <= 1.0 => ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
                Mode::Cubic { a } if t < 2.0 => ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a,
                Mode::Cubic { .. } => 0.0,
            }
        };
        if let Mode::Nearest(rounding) = mode {
            let nearest = match rounding {
                Rounding::Floor => x.floor(),
                Rounding::Ceil => x.ceil(),
                Rounding::PreferFloor => (x - 0.5).ceil(),
                Rounding::PreferCeil => (x + 0.5).floor(),
            };
            row[nearest.clamp(0.0, last) as usize] = 1.0;
            return (row, 0.0);
        }
        // An antialiasing filter is as wide as the distance of neighbouring outputs.
        let stretch = if self.antialias { self.scale.min(1.0) } else { 1.0 };
        let reach = if mode == Mode::Linear { 1.0 } else { 2.0 } / stretch;
        let (low, high) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
        let mut sum = 0.0;
        for j in low..=high {
            let w = weight(mode, (x - j as f64) * stretch);
            let inside = (0..self.from as i64).contains(&j);
            if self.exclude_outside && !inside {
                continue;
            }
            sum += w;
            let at = j.clamp(0, self.from as i64 - 1) as usize;
            row[at] += w;
        }
        if sum != 0.0 {
            row.iter_mut().for_each(|w| *w /= sum);
        }
        (row, 0.0)
    }
}

fn transformation(call: &Call, default: &str) -> OpResult<Transformation> {
    Ok(match call.text_or("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => Transformation::HalfPixel,
        "half_pixel_symmetric" => Transformation::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transformation::PytorchHalfPixel,
        "align_corners" => Transformation::AlignCorners,
        "asymmetric" => Transformation::Asymmetric,
        "tf_crop_and_resize" => Transformation::CropAndResize { start: 0.0, end: 1.0, outside: 0.0 },
        other => {
            return unsupported(format!("coordinate_transformation_mode `{other}`; use half_pixel or asymmetric"));
        }
    })
}

fn mode(call: &Call) -> OpResult<Mode> {
    let nearest = call.text_or("nearest_mode", "round_prefer_floor")?;
    let a = f64::from(call.float_or("cubic_coeff_a", -0.75)?);
    Ok(match call.text_or("mode", "nearest")?.as_str() {
        "nearest" => Mode::Nearest(match nearest.as_str() {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return invalid(format!("unknown nearest_mode `{other}`")),
        }),
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic { a },
        other => return invalid(format!("unknown mode `{other}`")),
    })
}

/// `Resize(X, roi?, scales?, sizes?)`; opset 10 has `scales` second and maps coordinates asymmetrically.
pub fn resize(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let old = call.version < 11;
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let axes: Vec<usize> = match call.ints("axes")? {
        Some(axes) => axes.iter().map(|&axis| axis_index(axis, shape.len())).collect::<OpResult<_>>()?,
        None => (0..shape.len()).collect(),
    };
    let operand = |index: usize| call.optional(index).filter(|&id| builder.shape(id) != [0]);
    let (scales, sizes) = if old { (operand(1), None) } else { (operand(2), operand(3)) };
    let (mut factors, mut target): (Vec<f64>, Vec<usize>);
    match (scales, sizes) {
        (Some(scales), None) => {
            factors = builder.floats(scales, "the factors of Resize")?.into_iter().map(f64::from).collect();
            let size = |(&axis, f): (&usize, &f64)| (shape[axis] as f64 * f).floor() as usize;
            target = axes.iter().zip(&factors).map(size).collect();
        }
        (None, Some(sizes)) => {
            let sizes = builder.ints(sizes, "the sizes of Resize")?;
            target = sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
            factors = axes.iter().zip(&target).map(|(&axis, &to)| to as f64 / shape[axis].max(1) as f64).collect();
        }
        _ => return invalid("Resize takes either scales or sizes"),
    }
    if factors.len() != axes.len() || factors.iter().any(|f| !f.is_finite() || *f <= 0.0) || target.contains(&0) {
        return invalid("the factors or sizes do not fit the operand");
    }
    let policy = call.text_or("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" && sizes.is_some() {
        let common = match policy.as_str() {
            "not_larger" => factors.iter().copied().fold(f64::INFINITY, f64::min),
            "not_smaller" => factors.iter().copied().fold(0.0, f64::max),
            other => return invalid(format!("unknown keep_aspect_ratio_policy `{other}`")),
        };
        target = axes.iter().map(|&axis| (shape[axis] as f64 * common).round_ties_even() as usize).collect();
        factors.fill(common);
    }
    let default = if old { "asymmetric" } else { "half_pixel" };
    let base = transformation(call, default)?;
    let roi = match base {
        Transformation::CropAndResize { .. } => builder.floats(call.input(1)?, "the region of Resize")?,
        _ => Vec::new(),
    };
    let outside = f64::from(call.float_or("extrapolation_value", 0.0)?);
    let exclude_outside = call.int_or("exclude_outside", 0)? != 0;
    let antialias = call.int_or("antialias", 0)? != 0;
    // Before opset 11 "nearest" meant the element before.
    let mode = if old && mode(call)? == Mode::Nearest(Rounding::PreferFloor) {
        Mode::Nearest(Rounding::Floor)
    } else {
        mode(call)?
    };
    let mut plan = Vec::new();
    for (i, &axis) in axes.iter().enumerate() {
        let transformation = match base {
            Transformation::CropAndResize { .. } => {
                let (Some(&start), Some(&end)) = (roi.get(i), roi.get(i + axes.len())) else {
                    return invalid("the region does not fit the axes");
                };
                Transformation::CropAndResize { start: f64::from(start), end: f64::from(end), outside }
            }
            other => other,
        };
        let resized =
            Axis { from: shape[axis], to: target[i], scale: factors[i], transformation, exclude_outside, antialias };
        plan.push((axis, resized));
    }
    one(resized(builder, x, &plan, mode)?)
}

/// `Upsample(X, scales)`: Resize with asymmetric coordinates, rounded down.
pub fn upsample(builder: &mut Builder, call: &Call) -> OpResult<Outputs> {
    let x = call.input(0)?;
    let shape = builder.shape(x);
    let scales = match call.optional(1) {
        Some(scales) => builder.floats(scales, "the factors of Upsample")?,
        None => call.floats("scales")?.unwrap_or_default(),
    };
    if scales.len() != shape.len() || scales.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        return invalid("the factors do not fit the operand");
    }
    let mode = match call.text_or("mode", "nearest")?.as_str() {
        "nearest" => Mode::Nearest(Rounding::Floor),
        "linear" | "bilinear" => Mode::Linear,
        other => return invalid(format!("unknown mode `{other}`")),
    };
    let plan: Vec<(usize, Axis)> = scales
        .iter()
        .enumerate()
        .map(|(axis, &scale)| {
            let to = (shape[axis] as f32 * scale).floor() as usize;
            let scale = f64::from(scale);
            let transformation = Transformation::Asymmetric;
            (axis, Axis { from: shape[axis], to, scale, transformation, exclude_outside: false, antialias: false })
        })
        .collect();
    one(resized(builder, x, &plan, mode)?)
}

fn resized(builder: &mut Builder, mut x: TensorId, plan: &[(usize, Axis)], mode: Mode) -> OpResult<TensorId> {
    for (axis, along) in plan {
        let rows: Vec<(Vec<f64>, f64)> = {
            builder.checked_count(&[along.to, along.from])?;
            builder.charge(along.to * along.from)?;
            (0..along.to).map(|i| along.row(i, mode)).collect()
        };
        let same = along.from == along.to
            && rows.iter().enumerate().all(|(i, (row, add))| {
                *add == 0.0 && row.iter().enumerate().all(|(j, &w)| (w - f64::from(u8::from(i == j))).abs() < 1e-12)
            });
        if same {
            continue;
        }
        let inside = rows.iter().all(|(_, add)| *add == 0.0);
        x = match mode {
            Mode::Nearest(_) if inside => repeated(builder, x, *axis, &rows)?,
            _ => weighted(builder, x, *axis, &rows)?,
        };
    }
    Ok(x)
}

/// Rows that each pick one element along `axis`.
fn repeated(builder: &mut Builder, x: TensorId, axis: usize, rows: &[(Vec<f64>, f64)]) -> OpResult<TensorId> {
    let mut shape = builder.shape(x);
    let picked: Vec<usize> = rows.iter().map(|(row, _)| row.iter().position(|&w| w != 0.0).unwrap_or(0)).collect();
    let times = picked.len() / shape[axis].max(1);
    if times > 0 && picked.len() == times * shape[axis] && picked.iter().enumerate().all(|(i, &p)| p == i / times) {
        let mut apart = shape.clone();
        apart.insert(axis + 1, 1);
        let column = builder.reshape(x, &apart)?;
        apart[axis + 1] = times;
        let wide = builder.expand(column, &apart)?;
        shape[axis] *= times;
        return builder.reshape(wide, &shape);
    }
    let indices = builder.constant(&[picked.len()], Data::Int(picked.iter().map(|&p| p as i64).collect()))?;
    super::index::take(builder, x, indices, axis)
}

/// The product of a matrix with every line of `x` along `axis`.
fn weighted(builder: &mut Builder, x: TensorId, axis: usize, rows: &[(Vec<f64>, f64)]) -> OpResult<TensorId> {
    if builder.dtype(x) != DataType::Float {
        return unsupported("interpolation of integers; use Cast to float before");
    }
    let shape = builder.shape(x);
    let rank = shape.len();
    let weights = rows.iter().flat_map(|(row, _)| row.iter().map(|&w| w as f32)).collect();
    let weights = builder.constant(&[rows.len(), shape[axis]], Data::Float(weights))?;
    let bias = if rows.iter().any(|(_, add)| *add != 0.0) {
        let bias = rows.iter().map(|(_, add)| *add as f32).collect();
        Some(builder.constant(&[rows.len()], Data::Float(bias))?)
    } else {
        None
    };
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    let turned = builder.transpose(x, &perm)?;
    let y = builder.linear(turned, weights, bias)?;
    builder.transpose(y, &perm)
}
