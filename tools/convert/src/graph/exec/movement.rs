//! Elements in other places: broadcasts, strided views, concatenation, gathers, padding.

use super::operand::Operand;
use crate::graph::{Data, DataType, contiguous_strides};

/// Strides that broadcast `from` to `shape`; `None` where they do not fit.
pub(super) fn broadcast_strides(from: &[usize], shape: &[usize]) -> Option<Vec<isize>> {
    let extra = shape.len().checked_sub(from.len())?;
    let own = contiguous_strides(from);
    let mut strides = vec![0isize; shape.len()];
    for (d, stride) in strides.iter_mut().enumerate().skip(extra) {
        let (size, target) = (from[d - extra], shape[d]);
        if size == target {
            *stride = own[d - extra] as isize;
        } else if size != 1 {
            return None;
        }
    }
    Some(strides)
}

/// Calls `f` with the offset of every element of the strided view, row major.
pub(super) fn walk(offset: usize, shape: &[usize], strides: &[isize], mut f: impl FnMut(usize)) {
    let len: usize = shape.iter().product();
    let Some((&width, outer)) = shape.split_last() else {
        return f(offset);
    };
    if len == 0 {
        return;
    }
    let step = strides[outer.len()];
    let mut index = vec![0usize; outer.len()];
    let mut base = offset as isize;
    loop {
        for i in 0..width {
            f((base + step * i as isize) as usize);
        }
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            base += strides[axis];
            if index[axis] < outer[axis] {
                break;
            }
            base -= strides[axis] * outer[axis] as isize;
            index[axis] = 0;
        }
    }
}

pub(super) fn pick<T: Copy>(values: &[T], offset: usize, shape: &[usize], strides: &[isize]) -> Option<Vec<T>> {
    let mut out = Vec::with_capacity(shape.iter().product());
    let mut inside = true;
    walk(offset, shape, strides, |i| match values.get(i) {
        Some(&v) => out.push(v),
        None => inside = false,
    });
    inside.then_some(out)
}

pub(super) fn gather_strided(data: &Data, offset: usize, shape: &[usize], strides: &[isize]) -> Option<Data> {
    Some(match data {
        Data::Float(v) => Data::Float(pick(v, offset, shape, strides)?),
        Data::Int(v) => Data::Int(pick(v, offset, shape, strides)?),
        Data::Bool(v) => Data::Bool(pick(v, offset, shape, strides)?),
    })
}

/// An operand broadcast to `shape`, borrowed where it has that shape already.
pub(super) fn broadcast<'a>((from, data): Operand<'a>, shape: &[usize]) -> Option<std::borrow::Cow<'a, Data>> {
    if from == shape {
        return Some(std::borrow::Cow::Borrowed(data));
    }
    let strides = broadcast_strides(from, shape)?;
    gather_strided(data, 0, shape, &strides).map(std::borrow::Cow::Owned)
}

pub(super) fn concat(inputs: &[Operand<'_>], axis: usize, shape: &[usize]) -> Option<Data> {
    fn join<T: Copy>(parts: &[(&[usize], &[T])], axis: usize, shape: &[usize]) -> Vec<T> {
        let outer: usize = shape.iter().take(axis).product();
        let mut out = Vec::with_capacity(shape.iter().product());
        for i in 0..outer {
            for (part, values) in parts {
                let block: usize = part.iter().skip(axis).product();
                out.extend_from_slice(&values[i * block..(i + 1) * block]);
            }
        }
        out
    }
    let first = inputs.first()?.1.dtype();
    let aligned = inputs.iter().all(|(s, d)| {
        let same = |(i, (a, b)): (usize, (&usize, &usize))| i == axis || a == b;
        s.len() == shape.len() && d.dtype() == first && s.iter().zip(shape).enumerate().all(same)
    });
    if !aligned || axis >= shape.len() {
        return None;
    }
    match first {
        DataType::Float => {
            let parts: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, d.floats()?))).collect();
            Some(Data::Float(join(&parts?, axis, shape)))
        }
        DataType::Int => {
            let parts: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, d.ints()?))).collect();
            Some(Data::Int(join(&parts?, axis, shape)))
        }
        DataType::Bool => {
            let part = |d: &Data| if let Data::Bool(v) = d { Some(v.clone()) } else { None };
            let owned: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, part(d)?))).collect();
            let owned = owned?;
            let parts: Vec<_> = owned.iter().map(|(s, v)| (*s, v.as_slice())).collect();
            Some(Data::Bool(join(&parts, axis, shape)))
        }
    }
}

pub(super) fn gather(x: Operand<'_>, indices: Operand<'_>, axis: usize) -> Option<Data> {
    let size = *x.0.get(axis)?;
    let inner: usize = x.0[axis + 1..].iter().product();
    let outer: usize = x.0[..axis].iter().product();
    let indices: Option<Vec<usize>> = indices
        .1
        .ints()?
        .iter()
        .map(|&i| usize::try_from(if i < 0 { i + size as i64 } else { i }).ok().filter(|&i| i < size))
        .collect();
    let indices = indices?;
    fn take<T: Copy>(v: &[T], indices: &[usize], outer: usize, size: usize, inner: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(outer * indices.len() * inner);
        for block in 0..outer {
            for &i in indices {
                let start = (block * size + i) * inner;
                out.extend_from_slice(&v[start..start + inner]);
            }
        }
        out
    }
    Some(match x.1 {
        Data::Float(v) => Data::Float(take(v, &indices, outer, size, inner)),
        Data::Int(v) => Data::Int(take(v, &indices, outer, size, inner)),
        Data::Bool(v) => Data::Bool(take(v, &indices, outer, size, inner)),
    })
}

pub(super) fn pad(x: Operand<'_>, before: &[usize], value: f32, shape: &[usize]) -> Option<Data> {
    if before.len() != shape.len() || x.0.len() != shape.len() {
        return None;
    }
    let strides = contiguous_strides(shape);
    let offset = before.iter().zip(&strides).map(|(&b, &s)| b * s).sum();
    let signed: Vec<isize> = strides.iter().map(|&s| s as isize).collect();
    fn place<T: Copy>(
        v: &[T],
        fill: T,
        len: usize,
        offset: usize,
        from: &[usize],
        strides: &[isize],
    ) -> Option<Vec<T>> {
        let mut out = vec![fill; len];
        let mut source = v.iter();
        let mut inside = true;
        walk(offset, from, strides, |i| match (out.get_mut(i), source.next()) {
            (Some(to), Some(&v)) => *to = v,
            _ => inside = false,
        });
        inside.then_some(out)
    }
    let len = shape.iter().product();
    Some(match x.1 {
        Data::Float(v) => Data::Float(place(v, value, len, offset, x.0, &signed)?),
        Data::Int(v) => Data::Int(place(v, value as i64, len, offset, x.0, &signed)?),
        Data::Bool(v) => Data::Bool(place(v, value != 0.0, len, offset, x.0, &signed)?),
    })
}
