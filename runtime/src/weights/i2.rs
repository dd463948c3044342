//! 2 bits: weight `i` of a group lies in byte `i % 4`, at bit `2 * (i / 4)`, two's complement.
//!
//! Four consecutive weights are the same two bits of the four bytes of a word: a shift and a mask away from their place.

use super::{GROUP, PANEL};

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

/// Widens a panel to the 8-bit layout. The sixteen weights of a word take thirteen operations where shifts are free.
pub fn unpack(panel: &[u8], to: &mut [u8]) {
    let groups = panel.as_chunks::<GROUP_BYTES>().0.iter().zip(to.as_chunks_mut::<GROUP>().0);
    for (group, to) in groups {
        // With its upper bit flipped a weight is itself plus 2, and (x + 0x7e) ^ 0x80 is x - 2 in its byte: no carry leaves it.
        let flipped = u32::from_le_bytes(*group) ^ 0xaaaa_aaaa;
        for (to, shift) in to.as_chunks_mut::<4>().0.iter_mut().zip([0, 2, 4, 6]) {
            let word = ((flipped >> shift) & 0x0303_0303).wrapping_add(0x7e7e_7e7e) ^ 0x8080_8080;
            *to = word.to_le_bytes();
        }
    }
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

/// Sums of the positive weights of a group of one channel, and of the magnitudes of the negative ones.
pub fn magnitudes(group: &[u8]) -> (i64, i64) {
    super::unpacked_magnitudes(group, unpack)
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, GROUP_BYTES, unpack)
}
