//! 3 bits, two's complement: the lower two of weight `i` of a group lie as in [`super::i2`], in byte `i % 4` at bit
//! `2 * (i / 4)`; the sign lies in byte `4 + i % 4 / 2`, at bit `i / 4 + 4 * (i % 2)`.
//!
//! Each half of the two bytes of signs belongs to one byte of the four: spread, they are a shift and a mask away from it.

use super::{GROUP, PANEL, WeightFormat, words};

/// In the container.
pub const CODE: u32 = 3;
/// The minor version of the container that added the format.
pub const SINCE: u16 = crate::format::VERSION_MINOR_FEW_BITS;
/// In reports.
pub const NAME: &str = "i3";
/// Bits per weight.
pub const BITS: u32 = 3;
/// Bytes of a group of one channel.
pub const GROUP_BYTES: usize = GROUP * 3 / 8;
/// Smallest and largest weight that the converter rounds to: all that there are, as in [`super::i2::RANGE`].
pub const RANGE: (i32, i32) = (-4, 3);
/// Kernels that compute with bytes unpack panels.
pub const IS_UNPACKED: bool = false;

/// The weights of a group of one channel plus 4, a byte each: 16 operations where shifts are free. 0 where the group is not
/// whole.
#[inline(always)]
pub fn offset_binary(group: &[u8]) -> [u32; 4] {
    let ([low], Some([even, odd])) = (words(group), group.last_chunk()) else { return [0; 4] };
    // The signs of weight `4 j + i` to bit `2 + j` of byte `i`, flipped.
    let halves = u32::from(*even) | (u32::from(*odd) << 16);
    let flipped = (halves | (halves << 4)) << 2 ^ 0x3c3c_3c3c;
    let plus_4 = |j: u32| ((low >> (2 * j)) & 0x0303_0303) | ((flipped >> j) & 0x0404_0404);
    [plus_4(0), plus_4(1), plus_4(2), plus_4(3)]
}

/// Where the sign of weight `at` lies: byte and bit.
#[inline(always)]
const fn sign_place(at: usize) -> (usize, usize) {
    (4 + at % 4 / 2, at / 4 + 4 * (at % 2))
}

/// Puts weight `at` of a group of one channel into its bytes, which are zero there.
pub fn put(group: &mut [u8], at: usize, w: i8) {
    super::i2::put(group, at, w);
    let (byte, bit) = sign_place(at);
    if let Some(byte) = group.get_mut(byte) {
        *byte |= (w as u8 >> 2 & 1) << bit;
    }
}

/// Weight `at` of a group of one channel, as the packing says: the tests compare it with what is unpacked.
#[cfg(test)]
pub(super) fn weight(group: &[u8], at: usize) -> i8 {
    let (byte, bit) = sign_place(at);
    let sign = group.get(byte).copied().unwrap_or(0) >> bit & 1;
    (super::i2::weight(group, at) & 3) - 4 * sign as i8
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, WeightFormat::I3)
}
