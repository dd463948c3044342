//! 8 bits: one byte per weight, two's complement. The layout that all kernels compute with.

use super::{GROUP, PANEL};

/// In the container.
pub const CODE: u32 = 8;
/// The minor version of the container that added the format.
pub const SINCE: u16 = 0;
/// In reports.
pub const NAME: &str = "i8";
/// Bits per weight.
pub const BITS: u32 = 8;
/// Bytes of a group of one channel.
pub const GROUP_BYTES: usize = GROUP;
/// Smallest and largest weight that the converter rounds to.
pub const RANGE: (i32, i32) = (-127, 127);
/// Panels are what kernels compute with: they need not be unpacked.
pub const IS_UNPACKED: bool = true;

/// The weights of a group of one channel plus 128, a byte each. 0 where the group is not whole.
#[inline(always)]
pub fn offset_binary(group: &[u8]) -> [u32; 4] {
    let [a, b, c, d] = super::words(group);
    [a ^ 0x8080_8080, b ^ 0x8080_8080, c ^ 0x8080_8080, d ^ 0x8080_8080]
}

/// Puts weight `at` of a group of one channel into its bytes.
pub fn put(group: &mut [u8], at: usize, w: i8) {
    if let Some(byte) = group.get_mut(at) {
        *byte = w as u8;
    }
}

/// `bias[ch] + sum_k x[k] * w[ch][k]`: the definition.
#[inline(always)]
pub fn dot_panel(x: &[i8], panel: &[u8], bias: [i32; PANEL]) -> [i32; PANEL] {
    let mut acc = bias;
    let (groups, tail) = x.as_chunks::<GROUP>();
    let mut weights = panel.as_chunks::<{ PANEL * GROUP_BYTES }>().0.iter();
    for (x, w) in groups.iter().zip(&mut weights) {
        let (channels, _) = w.as_chunks::<GROUP>();
        for (acc, w) in acc.iter_mut().zip(channels) {
            *acc += dot_group(x, w);
        }
    }
    if let (false, Some(w)) = (tail.is_empty(), weights.next()) {
        let (channels, _) = w.as_chunks::<GROUP>();
        for (acc, w) in acc.iter_mut().zip(channels) {
            *acc += dot_tail(tail, w);
        }
    }
    acc
}

#[inline(always)]
fn dot_group(x: &[i8; GROUP], w: &[u8; GROUP]) -> i32 {
    let mut sum = 0;
    for (&x, &w) in x.iter().zip(w) {
        sum += i32::from(x) * i32::from(w as i8);
    }
    sum
}

#[inline(always)]
fn dot_tail(x: &[i8], w: &[u8; GROUP]) -> i32 {
    x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w as i8)).sum()
}
