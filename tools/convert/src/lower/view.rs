//! Strided views of quantized tensors: movement costs nothing until somebody needs the values in a row.

use crate::program::TensorIndex;
use shiftformer::ops::{Dims, Extent, Strides};

/// Elements of a tensor in another arrangement, with the meaning of their values.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The tensor.
    pub tensor: TensorIndex,
    /// First element.
    pub offset: usize,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements between neighbours along each dimension.
    pub strides: Vec<isize>,
    /// Real units of one step.
    pub scale: f64,
    /// The value that stands for 0.
    pub zero: f64,
}

/// Row-major strides.
pub fn row_major(shape: &[usize]) -> Vec<isize> {
    crate::graph::contiguous_strides(shape).into_iter().map(|s| s as isize).collect()
}

impl View {
    /// A whole tensor.
    pub fn whole(tensor: TensorIndex, shape: &[usize], scale: f64, zero: f64) -> Self {
        Self { tensor, offset: 0, shape: shape.to_vec(), strides: row_major(shape), scale, zero }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether elements follow each other from the first one of the tensor.
    pub fn is_contiguous(&self) -> bool {
        let expected = row_major(&self.shape);
        let matches = self.shape.iter().zip(self.strides.iter().zip(expected)).all(|(&d, (&s, e))| d == 1 || s == e);
        self.offset == 0 && matches
    }

    /// Output dimension `i` is dimension `perm[i]`.
    pub fn transpose(&self, perm: &[usize]) -> Self {
        let shape = perm.iter().map(|&p| self.shape[p]).collect();
        let strides = perm.iter().map(|&p| self.strides[p]).collect();
        Self { shape, strides, ..self.clone() }
    }

    /// One range per dimension.
    pub fn slice(&self, starts: &[usize], steps: &[isize], shape: &[usize]) -> Self {
        let offset: isize = starts.iter().zip(&self.strides).map(|(&s, &stride)| s as isize * stride).sum();
        let strides = self.strides.iter().zip(steps).map(|(&s, &step)| s * step).collect();
        Self { offset: (self.offset as isize + offset) as usize, shape: shape.to_vec(), strides, ..self.clone() }
    }

    /// Broadcast to `shape`.
    pub fn expand(&self, shape: &[usize]) -> Self {
        let extra = shape.len() - self.shape.len();
        let strides = (0..shape.len())
            .map(|d| if d < extra || self.shape[d - extra] == 1 && shape[d] != 1 { 0 } else { self.strides[d - extra] })
            .collect();
        Self { shape: shape.to_vec(), strides, ..self.clone() }
    }

    /// The same elements in another shape, where strides can express it.
    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        // Runs of old and new dimensions with equal products; inside a run the old ones must be mergeable.
        let old: Vec<(usize, isize)> =
            self.shape.iter().copied().zip(self.strides.iter().copied()).filter(|&(d, _)| d != 1).collect();
        let mut strides = vec![0isize; shape.len()];
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (start, mut old_size, mut new_size, from) = (i, old[i].0, 1usize, j);
            while j < shape.len() && (new_size < old_size || new_size == 1) {
                new_size *= shape[j];
                j += 1;
                while new_size > old_size && i + 1 < old.len() {
                    i += 1;
                    old_size *= old[i].0;
                }
            }
            while old_size < new_size && i + 1 < old.len() {
                i += 1;
                old_size *= old[i].0;
            }
            if old_size != new_size {
                return None;
            }
            if old[start..=i].windows(2).any(|pair| pair[0].1 != pair[1].1 * pair[1].0 as isize) {
                return None;
            }
            let mut stride = old[i].1;
            for d in (from..j).rev() {
                strides[d] = stride;
                stride *= shape[d] as isize;
            }
            i += 1;
        }
        Some(Self { shape: shape.to_vec(), strides, ..self.clone() })
    }
}

/// Merges dimensions that all views walk alike and drops those of size 1; `None` when more than six are left.
pub fn collapse(shape: &[usize], views: &[&View]) -> Option<(Dims, Vec<Extent>)> {
    let mut dims: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<isize>> = vec![Vec::new(); views.len()];
    for (d, &size) in shape.iter().enumerate().filter(|&(_, &size)| size != 1) {
        let mergeable = dims.last().is_some()
            && views.iter().zip(&strides).all(|(view, s)| s[s.len() - 1] == view.strides[d] * size as isize);
        if mergeable {
            if let Some(last) = dims.last_mut() {
                *last *= size;
            }
            for (view, s) in views.iter().zip(&mut strides) {
                if let Some(last) = s.last_mut() {
                    *last = view.strides[d];
                }
            }
        } else {
            dims.push(size);
            views.iter().zip(&mut strides).for_each(|(view, s)| s.push(view.strides[d]));
        }
    }
    let lead = 6usize.checked_sub(dims.len())?;
    let mut out: Dims = [1; 6];
    for (to, &d) in out[lead..].iter_mut().zip(&dims) {
        *to = d as u32;
    }
    let extents = views
        .iter()
        .zip(&strides)
        .map(|(view, s)| {
            let mut full: Strides = [0; 6];
            for (to, &stride) in full[lead..].iter_mut().zip(s) {
                *to = stride as i32;
            }
            Extent { offset: view.offset as u32, strides: full }
        })
        .collect();
    Some((out, extents))
}

/// The contiguous extent over collapsed dimensions: strides of dimensions of size 1 are those of [`Extent::contiguous`].
pub fn normalize(dims: &Dims, extent: &Extent) -> Extent {
    let flat = Extent::contiguous(*dims);
    let mut strides = extent.strides;
    for ((stride, &dim), &regular) in strides.iter_mut().zip(dims).zip(&flat.strides) {
        if dim == 1 {
            *stride = regular;
        }
    }
    Extent { offset: extent.offset, strides }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[usize]) -> View {
        View::whole(0, shape, 1.0, 0.0)
    }

    fn elements(v: &View) -> Vec<usize> {
        let mut out = vec![v.offset as isize];
        for (&d, &s) in v.shape.iter().zip(&v.strides) {
            out = out.iter().flat_map(|&o| (0..d as isize).map(move |i| o + i * s)).collect();
        }
        out.into_iter().map(|o| o as usize).collect()
    }

    #[test]
    fn reshape_keeps_the_order_of_elements() {
        let base = view(&[2, 3, 4]);
        for shape in [&[6, 4][..], &[24], &[2, 12], &[1, 2, 3, 2, 2], &[4, 6], &[3, 8, 1]] {
            assert_eq!(elements(&base.reshape(shape).unwrap()), elements(&base), "{shape:?}");
        }
        let turned = base.transpose(&[0, 2, 1]);
        assert_eq!(elements(&turned.reshape(&[2, 2, 2, 3]).unwrap()), elements(&turned));
        assert!(turned.reshape(&[2, 12]).is_none());
        assert!(turned.reshape(&[8, 3]).is_none());
    }

    #[test]
    fn collapse_merges_what_all_views_walk_alike() {
        let a = view(&[2, 3, 4]);
        let (dims, extents) = collapse(&a.shape, &[&a]).unwrap();
        assert_eq!(dims, [1, 1, 1, 1, 1, 24]);
        assert_eq!(extents[0].strides[5], 1);
        let b = view(&[4]).expand(&[2, 3, 4]);
        let (dims, extents) = collapse(&a.shape, &[&a, &b]).unwrap();
        assert_eq!(dims, [1, 1, 1, 1, 6, 4]);
        assert_eq!(extents[1].strides[4..], [0, 1]);
    }
}
