//! 4 bits: byte `j` of a group holds weight `j` in its low and weight `j + 8` in its high nibble, both two's complement.

use super::{GROUP, PANEL};

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

/// Widens a panel to the 8-bit layout. Eight weights of a word take eight operations.
pub fn unpack(panel: &[u8], to: &mut [u8]) {
    // A nibble x is a value in -8..8 as ((x ^ 8) + 0x78) ^ 0x80 in its byte: no carry leaves a byte.
    let widen = |nibbles: u32| ((nibbles & 0x0f0f_0f0f) ^ 0x0808_0808).wrapping_add(0x7878_7878) ^ 0x8080_8080;
    let groups = panel.as_chunks::<GROUP_BYTES>().0.iter().zip(to.as_chunks_mut::<GROUP>().0);
    for ([a, b, c, d, e, f, g, h], to) in groups {
        let words = [u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h])];
        let [low, high] = [words, words.map(|word| word >> 4)];
        let words = to.as_chunks_mut::<4>().0.iter_mut().zip(low.into_iter().chain(high));
        words.for_each(|(to, nibbles)| *to = widen(nibbles).to_le_bytes());
    }
}

/// Puts weight `at` of a group of one channel into its bytes, which are zero there.
pub fn put(group: &mut [u8], at: usize, w: i8) {
    if let Some(byte) = group.get_mut(at % GROUP_BYTES) {
        *byte |= (w as u8 & 15) << (4 * (at / GROUP_BYTES));
    }
}

/// Sums of the positive weights of a group of one channel, and of the magnitudes of the negative ones.
pub fn magnitudes(group: &[u8]) -> (i64, i64) {
    super::unpacked_magnitudes(group, unpack)
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    super::dot_panel(x, panel, bias, GROUP_BYTES, unpack)
}
