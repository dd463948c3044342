//! Walking tensors of up to six dimensions by strides.

use crate::format::ReadWords;
use crate::format::{Word, WriteWords};
use core::ops::Range;

/// Dimensions of a walk; unused leading ones are 1.
pub type Dims = [u32; 6];
/// Elements between neighbours along each dimension.
pub type Strides = [i32; 6];

/// Product of dimensions; cannot overflow for what [`TensorRecord`](crate::format::TensorRecord) admits, saturates otherwise.
#[inline(never)]
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
    // Out of line: asked twice by every run and check of two operands.
    #[inline(never)]
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

    /// How many elements follow each other in the view of `dims` from `element` on, 0 where it is not in the view. For
    /// views that are [injective](Self::is_injective).
    pub(super) fn run_from(&self, dims: &Dims, element: u32) -> u32 {
        let axes = || self.strides.iter().zip(dims).filter(|&(_, &dim)| dim > 1);
        let back = |(&stride, &dim): (&i32, &u32)| i64::from(stride.min(0)) * i64::from(dim - 1);
        let rest = i64::from(element) - i64::from(self.offset) - axes().map(back).sum::<i64>();
        let Ok(mut rest) = u32::try_from(rest) else { return 0 };
        // Digits of the distance from the lowest element, each axis beyond what those below it reach.
        let (mut done, mut run) = (0u32, 1);
        for _ in dims {
            let left = self.strides.iter().zip(dims).enumerate();
            let left = left.filter(|&(axis, (_, &dim))| dim > 1 && done >> axis & 1 == 0);
            let Some((axis, (stride, &dim))) = left.max_by_key(|(_, (stride, _))| stride.unsigned_abs()) else { break };
            let stride = stride.unsigned_abs();
            let digit = rest.checked_div(stride).unwrap_or(0).min(dim - 1);
            rest -= digit * stride;
            run = if stride == 1 { dim - digit } else { 1 };
            done |= 1 << axis;
        }
        if rest == 0 { run } else { 0 }
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

    /// Starts at row `row`.
    fn from_row(dims: &'v Dims, views: [&'v Extent; N], row: u32) -> Self {
        let mut walk = Self::new(dims, views);
        walk.rows_left = walk.rows_left.saturating_sub(row);
        let mut rest = row;
        for (axis, (index, &dim)) in walk.index.iter_mut().zip(dims).enumerate().rev() {
            if rest == 0 {
                break;
            }
            *index = rest.checked_rem(dim).unwrap_or(0);
            rest = rest.checked_div(dim).unwrap_or(0);
            for (offset, view) in walk.offsets.iter_mut().zip(views) {
                let stride = view.strides.get(axis).copied().unwrap_or(0) as isize;
                *offset = offset.wrapping_add_signed(stride.wrapping_mul(*index as isize));
            }
        }
        walk
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

/// The elements `range` of `dims`, in row-major order, as stretches of innermost rows of `N` views: where each begins, and
/// its length.
pub(super) fn stretches<'v, const N: usize>(
    dims: &'v Dims,
    views: [&'v Extent; N],
    range: Range<usize>,
) -> impl Iterator<Item = ([usize; N], usize)> + use<'v, N> {
    let [.., width] = *dims;
    let width = (width as usize).max(1);
    // Most ranges begin at the first element: no division.
    let (row, mut column) = if range.start == 0 { (0, 0) } else { (range.start / width, range.start % width) };
    let mut rows = Walk::from_row(dims, views, row as u32);
    let mut left = range.len();
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let mut at = rows.next()?;
        for (at, view) in at.iter_mut().zip(views) {
            let [.., stride] = view.strides;
            *at = at.wrapping_add_signed((stride as isize).wrapping_mul(column as isize));
        }
        let count = (width - column).min(left);
        (left, column) = (left - count, 0);
        Some((at, count))
    })
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
    fn stretches_of_any_range_are_those_of_the_walk() {
        let dims = [1, 2, 1, 3, 2, 5];
        let views = [Extent { offset: 7, strides: [0, 30, 0, -1, 15, 3] }, Extent::contiguous(dims)];
        let of = |range| -> std::vec::Vec<[usize; 2]> {
            let each = |([a, b], count): ([usize; 2], usize)| (0..count).map(move |i| [a + 3 * i, b + i]);
            stretches(&dims, [&views[0], &views[1]], range).flat_map(each).collect()
        };
        let all = of(0..60);
        assert!(all.iter().enumerate().all(|(i, &[_, b])| i == b) && all.len() == 60);
        for (start, end) in [(0, 1), (1, 60), (4, 5), (5, 10), (13, 47), (29, 31), (60, 60)] {
            assert_eq!(of(start..end), all[start..end], "{start}..{end}");
        }
    }

    #[test]
    fn runs_of_a_view_are_its_elements() {
        let dims = [1, 1, 1, 2, 3, 4];
        for strides in [[0, 0, 0, 20, -6, 1], [0, 0, 0, 1, 2, 6], [0, 0, 0, 12, 4, 1]] {
            let view = Extent { offset: 13, strides };
            let elements: std::vec::Vec<usize> =
                Walk::new(&dims, [&view]).flat_map(|[o]| (0..4).map(move |i| o + i * strides[5] as usize)).collect();
            for element in 0..64 {
                let run = view.run_from(&dims, element) as usize;
                assert_eq!(run > 0, elements.contains(&(element as usize)), "{strides:?} {element}");
                assert!((element as usize..element as usize + run).all(|e| elements.contains(&e)));
            }
        }
    }

    #[test]
    fn contiguous_rows_follow_each_other() {
        let dims = [1, 1, 2, 2, 2, 5];
        let view = Extent::contiguous(dims);
        let rows = Walk::new(&dims, [&view]);
        assert!(rows.map(|[o]| o).eq((0..8).map(|r| r * 5)));
    }
}
