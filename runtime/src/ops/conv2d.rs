//! 2-D convolution as a dense layer over gathered windows.

use super::linear::EPILOGUE_WORK;
use super::linear::{Dense, JobSize};
use super::memory::cast_mut;
use super::{Division, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, require};
use crate::format::{Blob, op_params};
use crate::kernels::{self, Kernels, LinearOut, Windows};
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use crate::weights::{PANEL, PackedWeights, WeightFormat};
use core::ops::Range;

op_params! {
    /// `x: i8` image, read by strides, to `y: [out_h * out_w, n] i8 | i16`, channels last; in `i32` the sums.
    ///
    /// The sum runs over `(kh, kw, c)` in this order. Weights of group `g` are a packed `[n / groups, kh*kw*c]` matrix,
    /// one group after the other, each padded like a matrix of its own (so are bias and multipliers).
    Conv2d {
        /// Window geometry.
        window: Window,
        /// Input channels of one group.
        channels: u32,
        /// Groups.
        groups: u32,
        /// Output channels of all groups.
        n: u32,
        /// Weights and requantization; `weights`, `bias`, `multipliers` hold all groups.
        dense: Dense,
    }
}

op_params! {
    /// Where windows lie in an image, shared by convolution and pooling.
    Window {
        /// Rows of the image.
        in_h: u32,
        /// Columns of the image.
        in_w: u32,
        /// Rows of the output.
        out_h: u32,
        /// Columns of the output.
        out_w: u32,
        /// Rows of the window.
        kernel_h: u32,
        /// Columns of the window.
        kernel_w: u32,
        /// Vertical step.
        stride_h: u32,
        /// Horizontal step.
        stride_w: u32,
        /// Rows of padding above.
        pad_top: u32,
        /// Columns of padding on the left.
        pad_left: u32,
        /// Vertical distance of window rows.
        dilation_h: u32,
        /// Horizontal distance of window columns.
        dilation_w: u32,
        /// Elements from a channel to the next.
        channel_stride: u32,
        /// Elements from an image row to the next.
        row_stride: u32,
        /// Elements from an image column to the next.
        column_stride: u32,
        /// Value of padding elements: the input's zero point.
        pad_value: i32,
    }
}

/// Maximum extent of any window dimension: keeps all index arithmetic inside `i32` and `u64`.
const MAX_EXTENT: u32 = 1 << 15;

/// Work of gathering an element, see [`Division`].
const GATHER_WORK: u64 = 100;

impl Window {
    /// Checks that every index of every window over `channels` channels lies in an image of `len` elements.
    pub(super) fn check(&self, channels: u32, len: usize) -> Result<(), OpFault> {
        let sizes = [self.in_h, self.in_w, self.out_h, self.out_w, self.kernel_h, self.kernel_w, channels];
        let steps = [self.stride_h, self.stride_w, self.dilation_h, self.dilation_w];
        let sane = sizes.iter().chain(&steps).all(|&v| v > 0 && v <= MAX_EXTENT);
        let sane = sane && self.pad_top <= MAX_EXTENT && self.pad_left <= MAX_EXTENT;
        require(sane && (-128..=127).contains(&self.pad_value), OpFault::Range)?;
        let reach = |stride: u32, count: u32| u64::from(stride) * u64::from(count - 1);
        let last = reach(self.channel_stride, channels) + reach(self.row_stride, self.in_h);
        require(last + reach(self.column_stride, self.in_w) < len as u64, OpFault::Operand)
    }

    /// Offsets of the elements of the window at output pixel `pixel`, in the order `(kh, kw)`; `None` is padding.
    pub(super) fn taps(&self, pixel: u32) -> impl Iterator<Item = Option<usize>> + Clone + '_ {
        let (top, left) = self.corner(pixel);
        (0..self.kernel_h).flat_map(move |kh| {
            let y = top + (kh * self.dilation_h) as i32;
            (0..self.kernel_w).map(move |kw| {
                let x = left + (kw * self.dilation_w) as i32;
                let inside = y >= 0 && y < self.in_h as i32 && x >= 0 && x < self.in_w as i32;
                inside.then(|| y as usize * self.row_stride as usize + x as usize * self.column_stride as usize)
            })
        })
    }

    /// Row and column of the image at the first element of the window at output pixel `pixel`.
    fn corner(&self, pixel: u32) -> (i32, i32) {
        let row = pixel.checked_div(self.out_w).unwrap_or(0);
        let column = pixel.wrapping_sub(row.wrapping_mul(self.out_w));
        let top = (row * self.stride_h) as i32 - self.pad_top as i32;
        (top, (column * self.stride_w) as i32 - self.pad_left as i32)
    }

    /// The windows of the output pixels of row `row` from column `column` on that miss the same taps, and where the
    /// image begins for them.
    pub(super) fn run(&self, channels: u32, [row, column]: [u32; 2]) -> (Windows, usize) {
        let (top, left) = self.corner(row.wrapping_mul(self.out_w).wrapping_add(column));
        let inside = |x| Self::taps_inside(x, self.kernel_w, self.dilation_w, self.in_w);
        let columns = inside(left);
        let step = |to: u32| left.wrapping_add(((to - column) * self.stride_w) as i32);
        let end = (column + 1..self.out_w).find(|&to| inside(step(to)) != columns).unwrap_or(self.out_w);
        let rows = Self::taps_inside(top, self.kernel_h, self.dilation_h, self.in_h);
        // Products overflow only where there is no second tap or window to reach.
        let product = |a: u32, b: u32| (a as usize).wrapping_mul(b as usize);
        let at = |corner: i32, first: u32, dilation: u32, stride: u32| {
            product(u32::try_from(corner.wrapping_add((first * dilation) as i32)).unwrap_or(0), stride)
        };
        let windows = Windows {
            pixels: end.saturating_sub(column) as usize,
            channels: channels as usize,
            kernel: [self.kernel_h as usize, self.kernel_w as usize],
            first: [rows.start as usize, columns.start as usize],
            inside: [rows.len(), columns.len()],
            strides: [product(self.dilation_h, self.row_stride), product(self.dilation_w, self.column_stride)],
            pixel_stride: product(self.stride_w, self.column_stride),
            channel_stride: self.channel_stride as usize,
        };
        let first = at(top, rows.start, self.dilation_h, self.row_stride);
        (windows, first.wrapping_add(at(left, columns.start, self.dilation_w, self.column_stride)))
    }

    /// Calls `run` for every run of windows of the output rows `rows`: with the windows, the image from the first tap inside
    /// on, and the number of the first output pixel.
    ///
    /// # Errors
    /// Those of `run`.
    pub(super) fn runs<B: Kernels>(
        &self,
        channels: u32,
        x: &[i8],
        rows: Range<u32>,
        mut run: impl FnMut(Windows, &[i8], u32) -> Result<(), RunFault>,
    ) -> Result<(), RunFault> {
        #[cfg(feature = "std")]
        if B::INTERLEAVES && self.is_planar() {
            return self.interleaved::<B>(channels, x, rows, run);
        }
        self.each_run(channels, x, 0, rows, &mut run)
    }

    /// [`runs`](Self::runs) over an image of which `x` has all but the first `skipped` elements.
    pub(super) fn each_run<T>(
        &self,
        channels: u32,
        x: &[T],
        skipped: usize,
        rows: Range<u32>,
        run: &mut impl FnMut(Windows, &[T], u32) -> Result<(), RunFault>,
    ) -> Result<(), RunFault> {
        for row in rows {
            let mut column = 0;
            while column < self.out_w {
                let (windows, at) = self.run(channels, [row, column]);
                let x = at.checked_sub(skipped).and_then(|at| x.get(at..)).unwrap_or(&[]);
                run(windows, x, row.wrapping_mul(self.out_w).wrapping_add(column))?;
                column = column.saturating_add((windows.pixels as u32).max(1));
            }
        }
        Ok(())
    }

    /// Whether every channel is an image of its own.
    #[cfg(feature = "std")]
    fn is_planar(&self) -> bool {
        self.column_stride == 1 && self.channel_stride != 1 && self.channel_stride >= self.in_w
    }

    /// [`runs`](Self::runs) over a copy of the image rows they need with the channels last: kernels take many channels at a
    /// time.
    #[cfg(feature = "std")]
    fn interleaved<B: Kernels>(
        &self,
        channels: u32,
        x: &[i8],
        rows: Range<u32>,
        mut run: impl FnMut(Windows, &[i8], u32) -> Result<(), RunFault>,
    ) -> Result<(), RunFault> {
        let (width, count) = (self.in_w as usize, channels as usize);
        let top = |row: u32| i64::from(row) * i64::from(self.stride_h) - i64::from(self.pad_top);
        let bottom = top(rows.end.saturating_sub(1)) + i64::from((self.kernel_h - 1) * self.dilation_h) + 1;
        let [first, end] = [top(rows.start), bottom].map(|row| row.clamp(0, i64::from(self.in_h)) as usize);
        let row_elements = width * count;
        kernels::with_scratch(end.saturating_sub(first) * row_elements, |copy| {
            let copy = cast_mut::<i8>(copy)?;
            for (y, copy) in (first..end).zip(copy.chunks_exact_mut(row_elements.max(1))) {
                let x = x.get(y * self.row_stride as usize..).unwrap_or(&[]);
                B::transpose(x, self.channel_stride as usize, count, width, copy, count);
            }
            // The same windows over the rows of the copy.
            let image = Self { channel_stride: 1, column_stride: channels, row_stride: row_elements as u32, ..*self };
            image.each_run(channels, copy, first * row_elements, rows, &mut run)
        })
    }

    /// Which of `count` taps, `dilation` apart from `corner` on, lie in `0..extent`.
    fn taps_inside(corner: i32, count: u32, dilation: u32, extent: u32) -> Range<u32> {
        // Taps before `limit`: the first one there or beyond it.
        let before = |limit: i32| {
            let distance = u32::try_from(limit.saturating_sub(corner)).unwrap_or(0);
            distance.saturating_add(dilation.saturating_sub(1)).checked_div(dilation).unwrap_or(0).min(count)
        };
        let end = before(extent as i32);
        before(0).min(end)..end
    }

    /// What an output pixel reads of the image.
    fn row_read(&self) -> RowRead {
        RowRead::From {
            rows: self.out_w,
            step: self.stride_h.saturating_mul(self.row_stride),
            back: self.pad_top.saturating_mul(self.row_stride),
        }
    }

    /// Output pixels.
    pub(super) fn pixels(&self) -> u32 {
        self.out_h.saturating_mul(self.out_w)
    }
}

impl Conv2d {
    pub(super) fn k(&self) -> usize {
        self.window.kernel_h as usize * self.window.kernel_w as usize * self.channels as usize
    }

    pub(super) fn group_n(&self) -> u32 {
        self.n.checked_div(self.groups).unwrap_or(0)
    }

    /// The part of `blob` that belongs to `group`.
    pub(super) fn part(blob: Blob, bytes: usize, group: u32) -> Blob {
        Blob { offset: blob.offset.wrapping_add(group.wrapping_mul(bytes as u32)), bytes: bytes as u32 }
    }

    /// The dense layer of one group.
    pub(super) fn group(&self, group: u32) -> Dense {
        let n = self.group_n() as usize;
        let weights = PackedWeights::bytes_for(n, self.k(), self.dense.format);
        let channels = n.next_multiple_of(PANEL) * 4;
        Dense {
            weights: Self::part(self.dense.weights, weights, group),
            bias: Self::part(self.dense.bias, channels, group),
            multipliers: if self.dense.multipliers.is_some() {
                Self::part(self.dense.multipliers, channels, group)
            } else {
                Blob::NONE
            },
            ..self.dense
        }
    }

    /// Checks the geometry over an image of `len` elements, and that every group has an even part of the blobs; the length
    /// of the sums.
    pub(super) fn check_shape(&self, len: usize) -> Result<u32, OpFault> {
        require(self.groups > 0 && self.groups <= MAX_EXTENT && self.n > 0 && self.n <= MAX_EXTENT, OpFault::Range)?;
        require(self.n.is_multiple_of(self.groups) && self.channels <= MAX_EXTENT, OpFault::Range)?;
        let all_channels = self.channels.checked_mul(self.groups).ok_or(OpFault::Range)?;
        self.window.check(all_channels, len)?;
        let k = u64::from(self.window.kernel_h) * u64::from(self.window.kernel_w) * u64::from(self.channels);
        require(k <= 1 << 20, OpFault::Range)?;
        let dense = &self.dense;
        let even = self.is_even(dense.weights) && self.is_even(dense.bias) && self.is_even(dense.multipliers);
        require(even, OpFault::Blob)?;
        Ok(k as u32)
    }

    /// Whether `groups` groups of `group_n` channels may have weights of this format: the part of a group begins at a multiple
    /// of 16 bytes, as blobs do. One group always may, several may not with every number of weights of 3 bits.
    pub fn parts_fit(format: WeightFormat, groups: usize, group_n: usize, k: usize) -> bool {
        groups == 1 || PackedWeights::bytes_for(group_n, k, format).is_multiple_of(16)
    }

    /// Whether every group has the same whole part of `blob`.
    pub(super) fn is_even(&self, blob: Blob) -> bool {
        if self.groups == 1 {
            return true;
        }
        let part = blob.bytes.checked_div(self.groups).filter(|_| blob.bytes.is_multiple_of(self.groups));
        part.is_some_and(|bytes| bytes.is_multiple_of(16))
    }

    /// Whether the windows are rows of the image as they lie: one tap, one group, channels last, nothing skipped or padded.
    #[cfg(feature = "std")]
    pub(super) fn reads_rows(&self) -> bool {
        let w = &self.window;
        self.groups == 1
            && [w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.channel_stride] == [1; 5]
            && [w.pad_top, w.pad_left] == [0; 2]
            && [w.out_h, w.out_w] == [w.in_h, w.in_w]
            && w.column_stride == self.channels
            && w.row_stride == w.in_w.saturating_mul(self.channels)
    }

    /// Bytes of `count` windows.
    fn gathered_bytes(&self, count: usize) -> usize {
        (count * self.k().next_multiple_of(kernels::GROUP)).next_multiple_of(16)
    }

    /// Scratch for `count` windows at a time.
    fn scratch_for(&self, count: usize) -> usize {
        self.gathered_bytes(count) + kernels::dense_scratch_bytes(self.k(), self.dense.format)
    }

    /// Gathers the window of `pixel` for the channels from `first` into `out`.
    fn gather<B: Kernels>(&self, x: &[i8], pixel: u32, first: usize, out: &mut [i8]) {
        let window = &self.window;
        let neighbours = window.column_stride.checked_mul(window.dilation_w) == Some(1);
        if B::INTERLEAVES && neighbours && window.channel_stride >= window.in_w {
            self.gather_planes::<B>(x, pixel, first, out);
        } else {
            self.gather_taps(x, window.pad_value as i8, pixel, first, out);
        }
    }

    /// [`gather`](Self::gather) where the columns of a window are neighbours: a row of the window at a time.
    fn gather_planes<B: Kernels>(&self, x: &[i8], pixel: u32, first: usize, out: &mut [i8]) {
        let window = &self.window;
        let (pad, channels) = (window.pad_value as i8, self.channels as usize);
        let (stride, width) = (window.channel_stride as usize, window.kernel_w as usize * channels);
        let (top, left) = window.corner(pixel);
        // Columns of the window that lie in the image.
        let from = left.wrapping_neg().clamp(0, window.kernel_w as i32);
        let to = (window.in_w as i32).wrapping_sub(left).clamp(from, window.kernel_w as i32);
        for (kh, out) in (0..window.kernel_h).zip(out.chunks_exact_mut(width.max(1))) {
            let y = top.wrapping_add((kh * window.dilation_h) as i32);
            let inside = y >= 0 && y < window.in_h as i32;
            let to = if inside { to } else { from };
            let (before, rest) = out.split_at_mut_checked(from as usize * channels).unwrap_or_default();
            let (image, after) = rest.split_at_mut_checked((to - from) as usize * channels).unwrap_or_default();
            kernels::portable::fill(before, pad);
            kernels::portable::fill(after, pad);
            if inside && to > from {
                let at = y as usize * window.row_stride as usize + left.wrapping_add(from) as usize + first * stride;
                B::transpose(x.get(at..).unwrap_or(&[]), stride, channels, (to - from) as usize, image, channels);
            }
        }
    }

    /// The window of `pixel` for the channels from `first`, element by element; `pad` where there is no image.
    pub(super) fn gather_taps<T: Copy>(&self, x: &[T], pad: T, pixel: u32, first: usize, out: &mut [T]) {
        let channels = self.channels as usize;
        let stride = self.window.channel_stride as usize;
        for (tap, out) in self.window.taps(pixel).zip(out.chunks_exact_mut(channels.max(1))) {
            let source = tap.and_then(|at| x.get(at + first * stride..));
            match source {
                Some(source) if cfg!(feature = "std") && stride == 1 => {
                    let count = source.len().min(out.len());
                    out[..count].copy_from_slice(&source[..count]);
                }
                Some(source) => {
                    for (to, &from) in out.iter_mut().zip(source.iter().step_by(stride.max(1))) {
                        *to = from;
                    }
                }
                None => kernels::portable::fill(out, pad),
            }
        }
    }
}

impl Conv2d {
    /// Runs `pixels`, `at_once` windows at a time.
    fn blocks<B: Kernels>(&self, memory: &mut Memory<'_>, pixels: Range<u32>, at_once: usize) -> Result<(), RunFault> {
        for first in pixels.clone().step_by(at_once) {
            let pixels = first..(first + at_once as u32).min(pixels.end);
            for group in 0..self.groups {
                self.gather_all::<B>(memory, pixels.clone(), at_once, group)?;
                self.dense::<B>(memory, pixels.clone(), at_once, group)?;
            }
        }
        Ok(())
    }

    /// Gathers the windows of `pixels` for one group, one after the other, into the scratch.
    #[inline(never)]
    fn gather_all<B: Kernels>(
        &self,
        memory: &mut Memory<'_>,
        pixels: Range<u32>,
        at_once: usize,
        group: u32,
    ) -> Result<(), RunFault> {
        let x = memory.inputs.get::<i8>(0)?;
        let (gathered, _) = split_scratch(memory.scratch, self.gathered_bytes(at_once))?;
        let first = group as usize * self.channels as usize;
        for (pixel, out) in pixels.zip(stepwise(gathered.chunks_exact_mut(self.k().max(1)))) {
            self.gather::<B>(x, pixel, first, out);
        }
        Ok(())
    }

    /// The dense layer of one group over gathered windows.
    #[inline(never)]
    fn dense<B: Kernels>(
        &self,
        memory: &mut Memory<'_>,
        pixels: Range<u32>,
        at_once: usize,
        group: u32,
    ) -> Result<(), RunFault> {
        let (k, n, group_n) = (self.k(), self.n as usize, self.group_n() as usize);
        let size = JobSize { rows: pixels.len(), k, n: group_n, x_stride: k, out_stride: n };
        let job = self.group(group).job(&memory.inputs, size)?;
        let lut = self.dense.table(&memory.inputs)?;
        let held = memory.output.first_held(pixels.start as usize);
        let start = memory.index((pixels.start as usize - held) * n + group as usize * group_n);
        let (gathered, scratch) = split_scratch(memory.scratch, self.gathered_bytes(at_once))?;
        let out = match memory.output.dtype {
            Dtype::I8 => {
                LinearOut::I8 { out: cast_mut::<i8>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)?, lut }
            }
            Dtype::I32 => {
                let out = cast_mut::<i32>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)?;
                B::linear_acc(&job, gathered, out, scratch);
                return Ok(());
            }
            _ => LinearOut::I16 { out: cast_mut::<i16>(memory.out)?.get_mut(start..).ok_or(RunFault::Memory)? },
        };
        B::linear(&job, gathered, out, scratch);
        Ok(())
    }
}

/// Work of gathering an element, see [`Operator::piece_work`].
const ELEMENT_WORK: u32 = 20;

impl Operator for Conv2d {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let input = io.need_input(0, &[Dtype::I8], 1)?;
        let k = self.check_shape(input.len())?;
        let out =
            io.need_output(&[Dtype::I8, Dtype::I16, Dtype::I32], u64::from(self.window.pixels()) * u64::from(self.n))?;
        let group = |g| self.group(g).check(io, self.group_n(), k, out.dtype);
        (0..self.groups).try_fold(Proof::NONE, |proof, g| Ok(proof.and(group(g)?)))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pixels: Range<u32>) -> Result<(), RunFault> {
        #[cfg(feature = "std")]
        if B::GATHERED_ROWS > kernels::ROW_BLOCK {
            let Memory { inputs, output, out, skipped, .. } = memory;
            return kernels::with_scratch(self.scratch_for(B::GATHERED_ROWS), |scratch| {
                let mut memory = Memory { inputs: *inputs, output: *output, out, scratch, skipped: *skipped };
                self.blocks::<B>(&mut memory, pixels, B::GATHERED_ROWS)
            });
        }
        self.blocks::<B>(memory, pixels, kernels::ROW_BLOCK)
    }

    fn macs(&self) -> u64 {
        u64::from(self.window.pixels()) * u64::from(self.n) * self.k() as u64
    }

    fn scratch_bytes(&self) -> u32 {
        self.scratch_for(kernels::ROW_BLOCK) as u32
    }

    fn piece_work(&self) -> u32 {
        let k = self.k() as u32;
        let gathered = super::work(&[ELEMENT_WORK, self.groups, k]);
        self.n.saturating_mul(k.saturating_add(EPILOGUE_WORK)).saturating_add(gathered)
    }

    fn pieces(&self) -> u32 {
        self.window.pixels()
    }

    fn block(&self) -> u32 {
        kernels::ROW_BLOCK as u32
    }

    fn division(&self) -> Option<Division> {
        let work = u64::from(self.n) * self.k() as u64 + GATHER_WORK * u64::from(self.groups) * self.k() as u64;
        Some(Division::rows(self.n, work))
    }

    fn row_access(&self) -> Option<RowAccess> {
        let mut inputs = RowRead::NONE;
        if let Some(first) = inputs.first_mut() {
            *first = self.window.row_read();
        }
        Some(RowAccess::rows(inputs, self.n))
    }
}

fn split_scratch(scratch: &mut [u8], bytes: usize) -> Result<(&mut [i8], &mut [u8]), RunFault> {
    let (gathered, rest) = scratch.split_at_mut_checked(bytes).ok_or(RunFault::Memory)?;
    Ok((cast_mut(gathered)?, rest))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;
    use crate::kernels::Native;
    use std::vec;
    use std::vec::Vec;

    /// `channels` planes of 9 x 11, windows of `kernel`, moved by `strides` and padded by `pads`.
    fn planes(channels: u32, kernel: [u32; 2], strides: [u32; 2], pads: [u32; 2]) -> Conv2d {
        let window = Window {
            in_h: 9,
            in_w: 11,
            out_h: (9 + 2 * pads[0] - kernel[0]) / strides[0] + 1,
            out_w: (11 + 2 * pads[1] - kernel[1]) / strides[1] + 1,
            kernel_h: kernel[0],
            kernel_w: kernel[1],
            stride_h: strides[0],
            stride_w: strides[1],
            pad_top: pads[0],
            pad_left: pads[1],
            dilation_h: 1,
            dilation_w: 1,
            channel_stride: 99,
            row_stride: 11,
            column_stride: 1,
            pad_value: -7,
        };
        let none = Blob::NONE;
        let dense = Dense {
            format: crate::weights::WeightFormat::I8,
            acc_shift: 0,
            zero_point: 0,
            weights: none,
            bias: none,
            multipliers: none,
            lut: none,
        };
        Conv2d { window, channels, groups: 1, n: 4, dense }
    }

    #[test]
    fn planes_are_gathered_row_by_row_like_element_by_element() {
        for (channels, kernel, strides, pads) in [
            (1, [3, 3], [1, 1], [1, 1]),
            (3, [4, 4], [4, 4], [0, 0]),
            (3, [5, 7], [2, 1], [2, 5]),
            (4, [9, 11], [1, 1], [4, 10]),
            (6, [2, 11], [1, 3], [0, 3]),
        ] {
            let conv = planes(channels, kernel, strides, pads);
            let x = Random(channels.into()).values(Dtype::I8, 99 * channels as usize);
            let x: Vec<i8> = x.into_iter().map(|v| v as i8).collect();
            for pixel in 0..conv.window.pixels() {
                let [mut rows, mut taps] = [vec![1i8; conv.k()], vec![2i8; conv.k()]];
                conv.gather_planes::<Native>(&x, pixel, 0, &mut rows);
                conv.gather_taps(&x, conv.window.pad_value as i8, pixel, 0, &mut taps);
                assert_eq!(rows, taps, "{channels} channels, windows of {kernel:?}, pixel {pixel}");
            }
        }
    }
}
