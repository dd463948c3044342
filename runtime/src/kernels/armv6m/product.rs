//! The high half of a 64-bit product from four 16-bit ones: 20 instructions, against about 40 of the library's product.

use core::arch::asm;

/// A factor in halves, used for several products.
#[derive(Clone, Copy)]
pub struct Factor {
    high: i32,
    low: i32,
}

impl Factor {
    /// Splits `x = high * 2^16 + low`.
    #[inline(always)]
    pub const fn new(x: i32) -> Self {
        Self { high: x >> 16, low: x & 0xffff }
    }

    /// Low-order carry and high half: `x * y = (high * 2^16 + middle) * 2^16 + ..`, `middle` less than 2^31 in magnitude.
    ///
    /// With `x = xh * 2^16 + xl` each of `xh * yl + (xl * yl >> 16)` and `xl * yh + 0xffff` fits `i32`.
    #[inline(always)]
    const fn parts(self, x: i32) -> (i32, i32) {
        let Self { high: yh, low: yl } = self;
        let (xh, xl) = (x >> 16, x & 0xffff);
        let low = (xl.wrapping_mul(yl) as u32) >> 16;
        let first = xh.wrapping_mul(yl).wrapping_add(low as i32);
        let middle = xl.wrapping_mul(yh).wrapping_add(first & 0xffff);
        (xh.wrapping_mul(yh).wrapping_add(first >> 16), middle)
    }

    /// `floor(x * y / 2^32)`.
    #[inline(always)]
    pub const fn mulhi_floor(self, x: i32) -> i32 {
        let (high, middle) = self.parts(x);
        high.wrapping_add(middle >> 16)
    }

    /// `round_half_up(x * y / 2^32)`.
    #[inline(always)]
    pub fn mulhi_round(self, x: i32) -> i32 {
        let (mut high, mut middle) = self.parts(x);
        // SAFETY: arithmetic on registers. The last bit shifted out is the rounding bit.
        unsafe {
            asm!("asrs {middle}, {middle}, #16", "adcs {high}, {middle}", high = inout(reg) high,
                middle = inout(reg) middle, options(pure, nomem, nostack));
        }
        let _ = middle;
        high
    }
}

/// `floor(x / 2^shift)` plus the last bit shifted out plus `addend`, `shift` in `1..=31`.
#[inline(always)]
pub fn asr_round_add(x: i32, shift: u32, addend: i32) -> i32 {
    let mut result = x;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("asrs {x}, {shift}", "adcs {x}, {addend}", x = inout(reg) result, shift = in(reg) shift,
            addend = in(reg) addend, options(pure, nomem, nostack));
    }
    result
}
