//! Walking tensors of up to six dimensions by strides.

use crate::format::ReadWords;
use crate::format::{Word, WriteWords};

/// Dimensions of a walk; unused leading ones are 1.
pub type Dims = [u32; 6];
/// Elements between neighbours along each dimension.
pub type Strides = [i32; 6];

/// Product of dimensions; cannot overflow for what [`TensorRecord`](crate::format::TensorRecord) admits, saturates otherwise.
pub(crate) fn product(dims: &[u32]) -> u64 {
    dims.iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)))
}

/// Whether axes of `(stride, count)` over elements of `width` values reach no value twice: each stride, in ascending
/// order, is beyond what the axes below it reach.
pub(crate) fn is_injective<const N: usize>(axes: [(u64, u64); N], width: u64) -> bool {
    let (mut extent, mut done) = (width, 0u32);
    for _ in 0..N {
        let left = axes.iter().enumerate().filter(|(axis, (_, count))| *count > 1 && done >> axis & 1 == 0);
        let Some((axis, &(stride, count))) = left.min_by_key(|(_, (stride, _))| *stride) else { return true };
        if stride < extent {
            return false;
        }
        extent = stride.saturating_mul(count - 1).saturating_add(extent);
        done |= 1 << axis;
    }
    true
}

/// Where a strided view begins and how it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First element.
    pub offset: u32,
    /// Elements between neighbours.
    pub strides: Strides,
}

impl Word for Extent {
    const WORDS: usize = 7;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        Some(Self { offset: Word::read(words)?, strides: Word::read(words)? })
    }
    fn write(&self, out: &mut dyn WriteWords) {
        self.offset.write(out);
        self.strides.write(out);
    }
}

impl Extent {
    /// The contiguous row-major view of `dims`.
    pub fn contiguous(dims: Dims) -> Self {
        let mut strides = [0; 6];
        let mut next = 1i32;
        for (stride, &dim) in strides.iter_mut().zip(&dims).rev() {
            *stride = next;
            next = next.saturating_mul(dim as i32);
        }
        Self { offset: 0, strides }
    }

    /// Whether this is the contiguous row-major view of `dims`.
    pub fn is_contiguous(&self, dims: &Dims) -> bool {
        let mut next = 1i32;
        let follows = self.strides.iter().zip(dims).rev().all(|(&stride, &dim)| {
            let follows = stride == next;
            next = next.saturating_mul(dim as i32);
            follows
        });
        follows && self.offset == 0
    }

    /// Whether no two indices of `dims` are the same element.
    pub fn is_injective(&self, dims: &Dims) -> bool {
        let [a, b, c, d, e, f] = self.strides.map(|stride| u64::from(stride.unsigned_abs()));
        let [i, j, k, l, m, n] = dims.map(u64::from);
        is_injective([(a, i), (b, j), (c, k), (d, l), (e, m), (f, n)], 1)
    }

    /// Whether every element of the view over `dims` lies in `0..len`.
    pub fn fits(&self, dims: &Dims, len: usize) -> bool {
        let (mut low, mut high) = (i64::from(self.offset), i64::from(self.offset));
        for (&stride, &dim) in self.strides.iter().zip(dims) {
            if dim == 0 {
                return true;
            }
            let reach = i64::from(stride) * i64::from(dim - 1);
            if reach < 0 {
                low += reach;
            } else {
                high += reach;
            }
        }
        low >= 0 && high < len as i64
    }
}

/// The innermost rows of `N` views over the same dimensions, in row-major order: the offset of each row's first element.
pub struct Walk<'v, const N: usize> {
    dims: &'v Dims,
    views: [&'v Extent; N],
    index: [u32; 5],
    offsets: [usize; N],
    rows_left: u32,
}

impl<'v, const N: usize> Walk<'v, N> {
    /// Starts at the first row. The views fit what they view: [`Extent::fits`].
    pub fn new(dims: &'v Dims, views: [&'v Extent; N]) -> Self {
        let rows_left = dims.iter().take(5).fold(1u32, |n, &d| n.saturating_mul(d));
        Self { dims, views, index: [0; 5], offsets: views.map(|view| view.offset as usize), rows_left }
    }

    /// To the next row. Every offset on the way is that of an element.
    fn advance(&mut self) {
        for (axis, (index, &dim)) in self.index.iter_mut().zip(self.dims).enumerate().rev() {
            *index += 1;
            let stays = *index < dim;
            let steps = if stays { 1 } else { 1 - dim as isize };
            for (offset, view) in self.offsets.iter_mut().zip(self.views) {
                let stride = view.strides.get(axis).copied().unwrap_or(0) as isize;
                *offset = offset.wrapping_add_signed(stride.wrapping_mul(steps));
            }
            if stays {
                return;
            }
            *index = 0;
        }
    }
}

impl<const N: usize> Iterator for Walk<'_, N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.rows_left = self.rows_left.checked_sub(1)?;
        let now = self.offsets;
        self.advance();
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_walk_visits_columns() {
        let dims = [1, 1, 1, 1, 3, 2];
        let view = Extent { offset: 0, strides: [0, 0, 0, 0, 1, 3] };
        let starts: [usize; 3] = core::array::from_fn(|i| Walk::new(&dims, [&view]).nth(i).unwrap()[0]);
        assert_eq!(starts, [0, 1, 2]);
        assert!(view.fits(&dims, 6) && !view.fits(&dims, 5));
    }

    #[test]
    fn negative_strides_flip() {
        let dims = [1, 1, 1, 1, 1, 4];
        let view = Extent { offset: 3, strides: [0, 0, 0, 0, 0, -1] };
        assert!(view.fits(&dims, 4));
        assert!(!Extent { offset: 2, ..view }.fits(&dims, 4));
    }

    #[test]
    fn views_that_write_an_element_twice_are_known() {
        let dims = [1, 1, 1, 2, 3, 4];
        let view = |strides| Extent { offset: 5, strides };
        assert!(Extent::contiguous(dims).is_injective(&dims));
        assert!(view([0, 0, 0, 1, -2, 6]).is_injective(&dims));
        for strides in [[0, 0, 0, 12, 4, 0], [0, 0, 0, 11, 4, 1], [0, 0, 0, 12, -3, 1], [0, 0, 0, 4, 4, 1]] {
            assert!(!view(strides).is_injective(&dims), "{strides:?}");
        }
        assert!(view([7, 7, 0, 0, 0, 0]).is_injective(&[1; 6]));
    }

    #[test]
    fn contiguous_rows_follow_each_other() {
        let dims = [1, 1, 2, 2, 2, 5];
        let view = Extent::contiguous(dims);
        let rows = Walk::new(&dims, [&view]);
        assert!(rows.map(|[o]| o).eq((0..8).map(|r| r * 5)));
    }
}
