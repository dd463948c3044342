//! 4 bits: byte `j` of a group holds weight `j` in its low and weight `j + 8` in its high nibble, both two's complement.

use super::{GROUP, PANEL, WeightFormat, words};

/// In the container.
pub const CODE: u32 = 4;
/// The minor version of the container that added the format.
pub const SINCE: u16 = 0;
/// In reports.
pub const NAME: &str = "i4";
/// Bits per weight.
pub const BITS: u32 = 4;
/// Bytes of a group of one channel.
pub const GROUP_BYTES: usize = GROUP / 2;
/// Smallest and largest weight that the converter rounds to.
pub const RANGE: (i32, i32) = (-7, 7);
/// Kernels that compute with bytes unpack panels.
pub const IS_UNPACKED: bool = false;

/// The weights of a group of one channel plus 8, a byte each: six operations where shifts are free. 0 where the group is
/// not whole.
#[inline(always)]
pub fn offset_binary(group: &[u8]) -> [u32; 4] {
    let [low, high] = words(group);
    let (low, high) = (low ^ 0x8888_8888, high ^ 0x8888_8888);
    let plus_8 = |word: u32| word & 0x0f0f_0f0f;
    [plus_8(low), plus_8(high), plus_8(low >> 4), plus_8(high >> 4)]
}

/// Puts weight `at` of a group of one channel into its bytes, which are zero there.
pub fn put(group: &mut [u8], at: usize, w: i8) {
    if let Some(byte) = group.get_mut(at % GROUP_BYTES) {
        *byte |= (w as u8 & 15) << (4 * (at / GROUP_BYTES));
    }
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, WeightFormat::I4)
}
