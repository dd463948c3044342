//! 3 bits, two's complement: the lower two of weight `i` of a group lie as in [`super::i2`], in byte `i % 4` at bit
//! `2 * (i / 4)`; the sign lies in byte `4 + i % 4 / 2`, at bit `i / 4 + 4 * (i % 2)`.
//!
//! Each half of the two bytes of signs belongs to one byte of the four: spread, they are a shift and a mask away from it.

use super::{GROUP, PANEL};

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

/// Widens a panel to the 8-bit layout. The sixteen weights of a group take 24 operations where shifts are free.
pub fn unpack(panel: &[u8], to: &mut [u8]) {
    let groups = panel.as_chunks::<GROUP_BYTES>().0.iter().zip(to.as_chunks_mut::<GROUP>().0);
    for ([a, b, c, d, even, odd], to) in groups {
        let low = u32::from_le_bytes([*a, *b, *c, *d]);
        // The signs of weight `4 j + i` to bit `2 + j` of byte `i`, flipped: a weight is itself plus 4 then, and
        // (x + 0x7c) ^ 0x80 is x - 4 in its byte.
        let halves = u32::from_le_bytes([*even, 0, *odd, 0]);
        let flipped = (halves | (halves << 4)) << 2 ^ 0x3c3c_3c3c;
        for (to, j) in to.as_chunks_mut::<4>().0.iter_mut().zip(0..4) {
            let word = ((low >> (2 * j)) & 0x0303_0303) | ((flipped >> j) & 0x0404_0404);
            *to = (word.wrapping_add(0x7c7c_7c7c) ^ 0x8080_8080).to_le_bytes();
        }
    }
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

/// Sums of the positive weights of a group of one channel, and of the magnitudes of the negative ones.
pub fn magnitudes(group: &[u8]) -> (i64, i64) {
    super::unpacked_magnitudes(group, unpack)
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, GROUP_BYTES, unpack)
}
