//! Weight formats: how the `[n, k]` weights of a dense layer are packed. One file per format.
//!
//! All formats share panels and groups: [`PANEL`] output channels are interleaved, K in groups of [`GROUP`]; a group of
//! one channel has a fixed number of bytes. The group `g` of channel `ch` is at byte
//! `(((ch / 4) * ceil(k / 16) + g) * 4 + ch % 4) * GROUP_BYTES`. Channels and K are padded with zeros.
//!
//! # Adding a format
//!
//! 1. A file here: its code in the container, name, bytes of a group, packing, unpacking, and `dot_panel`, which is the definition of what it computes. A line in `formats!` below.
//! 2. Its reader in the shaders (`dense.wgsl`), its option in the converter (`WeightBits`).
//! 3. Cortex-M kernels unpack a panel of any format before they compute with it. Hosts choose tiles by format: the
//!    compiler names the places. Kernels that know a format better are optional.

use crate::format::{ReadWords, Word, WriteWords};
use crate::stepwise::stepwise;

/// Output channels interleaved in a panel.
pub const PANEL: usize = 4;
/// Consecutive K values of one channel.
pub const GROUP: usize = 16;

/// Declares the formats: a variant and the module that defines it.
macro_rules! formats {
    ($($(#[$meta:meta])* $variant:ident $module:ident;)*) => {
        $(pub mod $module;)*

        /// How weights are packed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u32)]
        pub enum WeightFormat { $(
            $(#[$meta])*
            $variant = $module::CODE,
        )* }

        impl WeightFormat {
            /// All formats.
            pub const ALL: &'static [WeightFormat] = &[$(WeightFormat::$variant),*];

            /// The format with this code.
            #[inline(always)]
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $($module::CODE => Some(WeightFormat::$variant),)* _ => None }
            }

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(WeightFormat::$variant => $module::NAME,)* }
            }

            /// The minor version of the container that added this format: older readers do not know it.
            pub const fn since(self) -> u16 {
                match self { $(WeightFormat::$variant => $module::SINCE,)* }
            }

            /// Bits per weight, for reports and for the choice of roundings.
            pub const fn bits(self) -> u32 {
                match self { $(WeightFormat::$variant => $module::BITS,)* }
            }

            /// Bytes of the weights of one channel in a group.
            #[inline(always)]
            pub const fn group_bytes(self) -> usize {
                match self { $(WeightFormat::$variant => $module::GROUP_BYTES,)* }
            }

            /// Smallest and largest weight that the converter rounds to.
            pub const fn range(self) -> (i32, i32) {
                match self { $(WeightFormat::$variant => $module::RANGE,)* }
            }

            /// Smallest and largest weight that the format holds: a model that comes quantized may use all of it.
            pub const fn limits(self) -> (i32, i32) {
                (-1 << (self.bits() - 1), (1 << (self.bits() - 1)) - 1)
            }

            /// Puts weight `at` of a group of one channel into its bytes, which are zero there.
            pub fn put(self, group: &mut [u8], at: usize, w: i8) {
                match self { $(WeightFormat::$variant => $module::put(group, at, w),)* }
            }

            /// Whether panels are in the layout that kernels compute with, that of [`WeightFormat::I8`].
            #[inline(always)]
            pub const fn is_unpacked(self) -> bool {
                match self { $(WeightFormat::$variant => $module::IS_UNPACKED,)* }
            }

            /// Unpacks a panel to the layout of [`WeightFormat::I8`], as much of it as `to` has room for.
            // One loop for all formats: kernels compute for longer than the choice takes.
            #[inline(never)]
            pub fn unpack(self, panel: &[u8], to: &mut [u8]) {
                let to_byte = 0x0101_0101 * (0x80 - (0x80u32 >> (8 - self.bits())));
                let groups = panel.chunks_exact(self.group_bytes().max(1)).zip(to.as_chunks_mut::<GROUP>().0);
                for (group, to) in groups {
                    let [a, b, c, d] = match self { $(WeightFormat::$variant => $module::offset_binary(group),)* };
                    // Weights plus 128 are bytes whose upper bit is the flipped sign: no carry leaves a byte.
                    let byte = |word: u32| (word.wrapping_add(to_byte) ^ 0x8080_8080).to_le_bytes();
                    if let [to_a, to_b, to_c, to_d] = to.as_chunks_mut::<4>().0 {
                        (*to_a, *to_b, *to_c, *to_d) = (byte(a), byte(b), byte(c), byte(d));
                    }
                }
            }

            /// `bias[ch] + sum_k x[k] * w[ch][k]` for the channels of a panel: the definition.
            #[inline(always)]
            pub fn dot_panel(self, x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
                match self { $(WeightFormat::$variant => $module::dot_panel(x, panel, bias),)* }
            }

        }
    };
}

formats! {
    /// One byte per weight.
    I8 i8;
    /// Two weights per byte.
    I4 i4;
    /// Eight weights in three bytes.
    I3 i3;
    /// Four weights per byte.
    I2 i2;
}

impl WeightFormat {
    /// Bytes of a panel of `k` weights per channel. For a layer that was checked, and for `k` that fit memory.
    #[inline(always)]
    pub const fn panel_bytes(self, k: usize) -> usize {
        k.div_ceil(GROUP) * PANEL * self.group_bytes()
    }

    /// Bytes of packed `[n, k]` weights, for any numbers; `u64::MAX` when there are more.
    pub const fn bytes(self, n: u32, k: u32) -> u64 {
        let panels = (n as u64).div_ceil(PANEL as u64);
        let panel_bytes = (k as u64).div_ceil(GROUP as u64) * (PANEL * self.group_bytes()) as u64;
        panels.saturating_mul(panel_bytes)
    }
}

impl Word for WeightFormat {
    const WORDS: usize = 1;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        Self::from_code(words.word()?)
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(*self as u32);
    }
}

/// Weights of a dense layer.
#[derive(Clone, Copy)]
pub struct PackedWeights<'a> {
    /// The panels, one after the other, from an address divisible by 16, where blobs of a model lie.
    pub bytes: &'a [u8],
    /// How they are packed.
    pub format: WeightFormat,
}

impl PackedWeights<'_> {
    /// Bytes of packed `[n, k]` weights that fit memory; [`WeightFormat::bytes`] takes any numbers.
    #[inline(always)]
    pub const fn bytes_for(n: usize, k: usize, format: WeightFormat) -> usize {
        n.div_ceil(PANEL) * format.panel_bytes(k)
    }

    /// Smallest and largest accumulator over all channels for any `i8` input: `bias + sum(w > 0 ? 127 w : -128 w)` and
    /// its mirror, by interval arithmetic. Partial sums stay inside too: every term of the maximum is non-negative.
    ///
    /// `bias` holds an `i32` per channel, padded to whole panels.
    pub fn acc_bounds(&self, bias: &[u8], k: usize) -> (i64, i64) {
        let mut bounds = (0i64, 0i64);
        let mut wide = [0; GROUP];
        let group_bytes = self.format.group_bytes().max(1);
        let panel_bytes = self.format.panel_bytes(k).max(1);
        let panels = stepwise(self.bytes.chunks_exact(panel_bytes)).zip(bias.as_chunks::<{ 4 * PANEL }>().0);
        for (panel, bias) in panels {
            for (channel, bias) in bias.as_chunks::<4>().0.iter().enumerate() {
                let (mut positive, mut negative) = (0i64, 0i64);
                for group in panel.chunks_exact(PANEL * group_bytes) {
                    let group = group.chunks_exact(group_bytes).nth(channel).unwrap_or(&[]);
                    self.format.unpack(group, &mut wide);
                    // Of a group they fit 12 bits.
                    let weights = wide.iter().map(|&w| i32::from(w as i8));
                    let (p, n) = weights.fold((0, 0), |(p, n), w| (p + w.max(0), n - w.min(0)));
                    (positive, negative) = (positive + i64::from(p), negative + i64::from(n));
                }
                let bias = i64::from(i32::from_le_bytes(*bias));
                let (low, high) = (-128 * positive - 127 * negative, 127 * positive + 128 * negative);
                bounds = (bounds.0.min(bias + low).min(bias), bounds.1.max(bias + high).max(bias));
            }
        }
        bounds
    }
}

/// [`WeightFormat::dot_panel`] of a format whose groups are unpacked first. A call of its own: one for all formats.
#[inline(never)]
fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL], format: WeightFormat) -> [i32; PANEL] {
    let mut acc = bias;
    let mut groups = stepwise(panel.chunks_exact(format.group_bytes().max(1)));
    let mut wide = [0; GROUP];
    for x in x.chunks(GROUP) {
        for acc in &mut acc {
            let Some(group) = groups.next() else { break };
            format.unpack(group, &mut wide);
            *acc += x.iter().zip(&wide).map(|(&x, &w)| i32::from(x) * i32::from(w as i8)).sum::<i32>();
        }
    }
    acc
}

/// The words of a group of one channel; 0 where it has fewer.
#[inline(always)]
fn words<const N: usize>(group: &[u8]) -> [u32; N] {
    match group.as_chunks::<4>().0.first_chunk::<N>() {
        Some(words) => words.map(u32::from_le_bytes),
        None => [0; N],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;
    use std::vec::Vec;

    #[test]
    fn codes_are_those_of_the_container() {
        for &format in WeightFormat::ALL {
            assert_eq!(WeightFormat::from_code(format as u32), Some(format));
        }
        assert_eq!(WeightFormat::ALL.iter().map(|&f| f as u32).collect::<Vec<_>>(), [8, 4, 3, 2]);
        assert!(WeightFormat::ALL.iter().all(|format| format.since() <= crate::format::VERSION_MINOR));
        assert!([0, 1, 5, 16, u32::MAX].iter().all(|&code| WeightFormat::from_code(code).is_none()));
    }

    #[test]
    fn what_is_put_is_unpacked() {
        let mut numbers = Numbers::new(4);
        for &format in WeightFormat::ALL {
            let (low, high) = format.limits();
            let (least, most) = format.range();
            assert!(low <= least && most <= high && format.group_bytes() * 8 == GROUP * format.bits() as usize);
            for fill in 0..20 {
                let values: Vec<i8> = (0..PANEL * GROUP)
                    .map(|_| match fill {
                        0 => low as i8,
                        1 => high as i8,
                        _ => numbers.bits() as i8 >> (8 - format.bits()),
                    })
                    .collect();
                let mut panel = std::vec![0; format.panel_bytes(GROUP)];
                for (at, &w) in values.iter().enumerate() {
                    format.put(&mut panel[at / GROUP * format.group_bytes()..][..format.group_bytes()], at % GROUP, w);
                }
                let mut unpacked = std::vec![0; PANEL * GROUP];
                format.unpack(&panel, &mut unpacked);
                let single = |at: usize| match format {
                    WeightFormat::I3 => {
                        i3::weight(&panel[at / GROUP * i3::GROUP_BYTES..][..i3::GROUP_BYTES], at % GROUP)
                    }
                    WeightFormat::I2 => {
                        i2::weight(&panel[at / GROUP * i2::GROUP_BYTES..][..i2::GROUP_BYTES], at % GROUP)
                    }
                    WeightFormat::I8 | WeightFormat::I4 => unpacked[at] as i8,
                };
                assert!((0..values.len()).all(|at| single(at) == values[at]));
                assert_eq!(unpacked, values.iter().map(|&w| w as u8).collect::<Vec<_>>(), "{}", format.name());
            }
        }
    }

    #[test]
    fn an_unpacked_panel_is_the_same_layer() {
        let mut numbers = Numbers::new(9);
        for &format in WeightFormat::ALL {
            for k in [1, 7, 16, 17, 40] {
                let panel: Vec<u8> = (0..format.panel_bytes(k)).map(|_| numbers.bits() as u8).collect();
                let mut unpacked = std::vec![0; WeightFormat::I8.panel_bytes(k)];
                format.unpack(&panel, &mut unpacked);
                for row in 0..5 {
                    let x: Vec<i8> = (0..k).map(|_| if row == 0 { -128 } else { numbers.bits() as i8 }).collect();
                    let bias = [1, -2, 3, numbers.bits() as i32 >> 8];
                    let expected = WeightFormat::I8.dot_panel(&x, &unpacked, bias);
                    assert_eq!(format.dot_panel(&x, &panel, bias), expected, "{} {k}", format.name());
                }
            }
        }
    }

    #[test]
    fn bounds_are_attained_and_hold() {
        let mut numbers = Numbers::new(3);
        for &format in WeightFormat::ALL {
            let k = 35;
            let bytes: Vec<u8> = (0..format.panel_bytes(k)).map(|_| numbers.bits() as u8).collect();
            let mut weights = std::vec![0; WeightFormat::I8.panel_bytes(k)];
            format.unpack(&bytes, &mut weights);
            let bias = [100i32, -100, 0, 7].map(i32::to_le_bytes).concat();
            let (low, high) = PackedWeights { bytes: &bytes, format }.acc_bounds(&bias, k.next_multiple_of(GROUP));
            // The input that drives a channel to its maximum; all weights count, padding included.
            let extreme = |channel: usize, sign: i32| {
                let w = |k: usize| weights[(k / GROUP * PANEL + channel) * GROUP + k % GROUP] as i8;
                let x = (0..k.next_multiple_of(GROUP)).map(w);
                x.map(|w| if (i32::from(w) > 0) == (sign > 0) { 127 } else { -128i8 }).collect::<Vec<_>>()
            };
            let sums = |sign| (0..PANEL).map(move |ch| (ch, sign));
            let value = |(ch, sign)| {
                let bias = [100i32, -100, 0, 7];
                i64::from(format.dot_panel(&extreme(ch, sign), &bytes, bias)[ch])
            };
            assert_eq!(sums(1).map(value).max(), Some(high), "{}", format.name());
            assert_eq!(sums(-1).map(value).min(), Some(low), "{}", format.name());
        }
    }

    #[test]
    fn sizes_do_not_wrap() {
        for &format in WeightFormat::ALL {
            assert_eq!(format.bytes(5, 17), PackedWeights::bytes_for(5, 17, format) as u64);
            assert!(format.bytes(u32::MAX, u32::MAX) > u64::from(u32::MAX));
            assert!(format.bytes(1, u32::MAX) > u64::from(u32::MAX) / 2);
        }
    }
}
