//! Where the elements of a moved tensor lie in the tensor they come from.
//!
//! A dimension may be made of several factors with strides of their own, as after merging dimensions that are not
//! neighbours in memory. So every reshape that does not cut across factors can be followed, where a plain strided view
//! would end.

use crate::graph::{HeadView, contiguous_strides};

/// `size` steps of `stride` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factor {
    pub size: usize,
    pub stride: isize,
}

/// Elements by index: each dimension a list of factors, the slowest first; none for a dimension of size 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub offset: isize,
    pub dims: Vec<Vec<Factor>>,
}

/// Appends a factor, merged with the last one where both make one walk.
fn push(factors: &mut Vec<Factor>, factor: Factor) {
    if factor.size == 1 {
        return;
    }
    match factors.last_mut() {
        Some(last) if last.stride == factor.stride * factor.size as isize => {
            *last = Factor { size: last.size * factor.size, stride: factor.stride };
        }
        _ => factors.push(factor),
    }
}

/// Size of the dimension that `factors` make.
pub(super) fn size(factors: &[Factor]) -> usize {
    factors.iter().map(|f| f.size).product()
}

/// The one stride of a dimension; 0 where it has size 1.
pub(super) fn stride(factors: &[Factor]) -> Option<isize> {
    match factors {
        [] => Some(0),
        [one] => Some(one.stride),
        _ => None,
    }
}

impl Layout {
    /// A whole tensor, row major.
    pub(super) fn whole(shape: &[usize]) -> Self {
        let dim = |(&size, stride): (&usize, usize)| {
            if size == 1 { Vec::new() } else { vec![Factor { size, stride: stride as isize }] }
        };
        Self { offset: 0, dims: shape.iter().zip(contiguous_strides(shape)).map(dim).collect() }
    }

    /// Output dimension `i` is dimension `perm[i]`.
    pub(super) fn transpose(&self, perm: &[usize]) -> Self {
        Self { offset: self.offset, dims: perm.iter().map(|&p| self.dims[p].clone()).collect() }
    }

    /// The same elements in another shape; `None` where a new dimension would cut across a factor.
    pub(super) fn reshape(&self, shape: &[usize]) -> Option<Self> {
        let mut merged = Vec::new();
        self.dims.iter().flatten().for_each(|&factor| push(&mut merged, factor));
        let dims = split(&merged, shape)?;
        Some(Self { offset: self.offset, dims })
    }

    /// One range per dimension; `None` where it takes parts of a factor that is not the slowest of its dimension.
    pub(super) fn slice(&self, starts: &[usize], steps: &[isize], shape: &[usize]) -> Option<Self> {
        let mut offset = self.offset;
        let mut dims = Vec::with_capacity(self.dims.len());
        for (d, factors) in self.dims.iter().enumerate() {
            let (start, step, count) = (starts[d], steps[d], shape[d]);
            if count == 1 {
                offset += position(factors, start);
                dims.push(Vec::new());
                continue;
            }
            let (&first, inner) = factors.split_first()?;
            let width = size(inner);
            if width == 1 {
                offset += start as isize * first.stride;
                dims.push(vec![Factor { size: count, stride: first.stride * step }]);
            } else if step == 1 && start.is_multiple_of(width) && count.is_multiple_of(width) {
                offset += (start / width) as isize * first.stride;
                let mut kept = Vec::new();
                push(&mut kept, Factor { size: count / width, ..first });
                kept.extend_from_slice(inner);
                dims.push(kept);
            } else {
                return None;
            }
        }
        Some(Self { offset, dims })
    }

    /// Broadcast to `shape`.
    pub(super) fn expand(&self, shape: &[usize]) -> Self {
        let extra = shape.len() - self.dims.len();
        let dim = |d: usize| {
            let own = d.checked_sub(extra).map_or(&[][..], |d| &self.dims[d]);
            if own.is_empty() && shape[d] != 1 { vec![Factor { size: shape[d], stride: 0 }] } else { own.to_vec() }
        };
        Self { offset: self.offset, dims: (0..shape.len()).map(dim).collect() }
    }

    /// Whether rows of the last dimension lie in one piece each, at one distance that keeps them apart.
    pub(super) fn has_rows(&self) -> bool {
        let [.., rows, columns] = &self.dims[..] else { return false };
        let width = size(columns) as isize;
        let whole = matches!(stride(columns), Some(s) if s == 1 || width == 1);
        let apart = matches!(stride(rows), Some(s) if s >= width || rows.is_empty());
        whole && apart && self.offset >= 0
    }

    /// The view of its rows for batches and heads at the given distances.
    pub(super) fn head_view(&self, batch: isize, head: isize) -> Option<HeadView> {
        let [.., rows, columns] = &self.dims[..] else { return None };
        // A single row has no distance to the next one; its width stands in.
        let row = if rows.is_empty() { size(columns) as isize } else { stride(rows)? };
        let at = |value: isize| usize::try_from(value).ok();
        Some(HeadView { offset: at(self.offset)?, batch: at(batch)?, head: at(head)?, row: at(row)? })
    }

    /// All factors of all dimensions but the last two, slowest first.
    pub(super) fn leading(&self) -> Vec<Factor> {
        self.dims[..self.dims.len().saturating_sub(2)].iter().flatten().copied().collect()
    }
}

/// Element `index` of a dimension, relative to its first one.
fn position(factors: &[Factor], mut index: usize) -> isize {
    let mut at = 0;
    for factor in factors.iter().rev() {
        at += (index % factor.size) as isize * factor.stride;
        index /= factor.size;
    }
    at
}

/// `factors` cut into dimensions of the sizes `shape`.
pub(super) fn split(factors: &[Factor], shape: &[usize]) -> Option<Vec<Vec<Factor>>> {
    let mut rest = factors.iter().copied();
    let mut open: Option<Factor> = None;
    let mut dims = Vec::with_capacity(shape.len());
    for &wanted in shape {
        let (mut dim, mut missing) = (Vec::new(), wanted);
        while missing > 1 {
            let factor = open.take().or_else(|| rest.next())?;
            if missing.is_multiple_of(factor.size) {
                push(&mut dim, factor);
                missing /= factor.size;
            } else if factor.size.is_multiple_of(missing) {
                let inner = factor.size / missing;
                push(&mut dim, Factor { size: missing, stride: factor.stride * inner as isize });
                open = Some(Factor { size: inner, stride: factor.stride });
                missing = 1;
            } else {
                return None;
            }
        }
        dims.push(dim);
    }
    (open.is_none() && rest.next().is_none()).then_some(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of all elements in order.
    fn elements(layout: &Layout) -> Vec<isize> {
        layout.dims.iter().flatten().fold(vec![layout.offset], |out, f| {
            out.iter().flat_map(|&o| (0..f.size as isize).map(move |i| o + i * f.stride)).collect()
        })
    }

    #[test]
    fn reshape_keeps_the_order_of_elements() {
        let turned = Layout::whole(&[4, 6, 5]).transpose(&[1, 0, 2]);
        for shape in [&[24, 5][..], &[6, 20], &[120], &[2, 3, 4, 5], &[1, 6, 2, 2, 5], &[3, 8, 5]] {
            assert_eq!(elements(&turned.reshape(shape).unwrap()), elements(&turned), "{shape:?}");
        }
        assert_eq!(turned.reshape(&[5, 24]), None);
    }

    #[test]
    fn merged_dimensions_are_sliced_along_their_slowest_factor() {
        let merged = Layout::whole(&[4, 6]).transpose(&[1, 0]).reshape(&[24]).unwrap();
        let part = merged.slice(&[8], &[1], &[12]).unwrap();
        assert_eq!(elements(&part), elements(&merged)[8..20]);
        assert_eq!(merged.slice(&[2], &[1], &[12]), None);
        assert_eq!(elements(&merged.slice(&[13], &[1], &[1]).unwrap()), elements(&merged)[13..14]);
    }

    #[test]
    fn broadcast_dimensions_have_stride_0() {
        let layout = Layout::whole(&[2, 1, 3]).expand(&[2, 4, 3]).reshape(&[8, 3]).unwrap();
        assert_eq!(elements(&layout)[..12], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(layout.dims[0], [Factor { size: 2, stride: 3 }, Factor { size: 4, stride: 0 }]);
        assert!(!layout.has_rows());
    }

    #[test]
    fn a_fused_projection_holds_the_rows_of_every_head() {
        // [1, n, 3 * h * d] to q, k, v of [1, h, n, d].
        let (n, h, d) = (5, 2, 4);
        let qkv = Layout::whole(&[1, n, 3 * h * d]).reshape(&[1, n, 3, h, d]).unwrap().transpose(&[2, 0, 3, 1, 4]);
        let k = qkv.slice(&[1, 0, 0, 0, 0], &[1; 5], &[1, 1, h, n, d]).unwrap().reshape(&[1, h, n, d]).unwrap();
        assert!(k.has_rows());
        assert_eq!(k.leading(), [Factor { size: h, stride: d as isize }]);
        assert_eq!(k.head_view(0, 4), Some(HeadView { offset: h * d, batch: 0, head: d, row: 3 * h * d }));
    }
}
