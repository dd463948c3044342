//! 2 bits: weight `i` of a group lies in byte `i % 4`, at bit `2 * (i / 4)`, two's complement.
//!
//! Four consecutive weights are the same two bits of the four bytes of a word: a shift and a mask away from their place.

use super::{GROUP, PANEL, WeightFormat, words};

/// In the container.
pub const CODE: u32 = 2;
/// The minor version of the container that added the format.
pub const SINCE: u16 = crate::format::VERSION_MINOR_FEW_BITS;
/// In reports.
pub const NAME: &str = "i2";
/// Bits per weight.
pub const BITS: u32 = 2;
/// Bytes of a group of one channel.
pub const GROUP_BYTES: usize = GROUP / 4;
/// Smallest and largest weight that the converter rounds to: where there are four values, none is left out. It is the grid
/// of LSQ (Esser et al., "Learned Step Size Quantization", ICLR 2020, section 2), and ternary weights lie on it.
pub const RANGE: (i32, i32) = (-2, 1);
/// Kernels that compute with bytes unpack panels.
pub const IS_UNPACKED: bool = false;

/// The weights of a group of one channel plus 2, a byte each: eight operations where shifts are free. 0 where the group is
/// not whole.
#[inline(always)]
pub fn offset_binary(group: &[u8]) -> [u32; 4] {
    let [low] = words(group);
    let flipped = low ^ 0xaaaa_aaaa;
    let plus_2 = |shift: u32| (flipped >> shift) & 0x0303_0303;
    [plus_2(0), plus_2(2), plus_2(4), plus_2(6)]
}

/// Puts weight `at` of a group of one channel into its bytes, which are zero there.
pub fn put(group: &mut [u8], at: usize, w: i8) {
    if let Some(byte) = group.get_mut(at % 4) {
        *byte |= (w as u8 & 3) << (2 * (at / 4));
    }
}

/// Weight `at` of a group of one channel, as the packing says: the tests compare it with what is unpacked.
#[cfg(test)]
pub(super) fn weight(group: &[u8], at: usize) -> i8 {
    let byte = group.get(at % 4).copied().unwrap_or(0) >> (2 * (at / 4));
    ((byte << 6) as i8) >> 6
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, WeightFormat::I2)
}
