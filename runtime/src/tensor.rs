//! Element types.

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Dtype {
    /// Activations.
    I8 = 0,
    /// Raw image inputs and 8-bit exponentials.
    U8 = 1,
    /// Residual stream, attention biases.
    I16 = 2,
    /// 16-bit exponentials.
    U16 = 3,
    /// Token ids, unfused attention scores.
    I32 = 4,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        // Two codes per size.
        1 << (self as usize / 2)
    }

    /// The type with this code.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Dtype::I8),
            1 => Some(Dtype::U8),
            2 => Some(Dtype::I16),
            3 => Some(Dtype::U16),
            4 => Some(Dtype::I32),
            _ => None,
        }
    }

    /// Lowercase name, as in Rust and npz files.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::I8 => "i8",
            Dtype::U8 => "u8",
            Dtype::I16 => "i16",
            Dtype::U16 => "u16",
            Dtype::I32 => "i32",
        }
    }

    /// Minimum and maximum value.
    pub const fn range(self) -> (i32, i32) {
        match self {
            Dtype::I8 => (i8::MIN as i32, i8::MAX as i32),
            Dtype::U8 => (0, u8::MAX as i32),
            Dtype::I16 => (i16::MIN as i32, i16::MAX as i32),
            Dtype::U16 => (0, u16::MAX as i32),
            Dtype::I32 => (i32::MIN, i32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_the_ranges() {
        for dtype in (0..5).map_while(Dtype::from_byte) {
            let (min, max) = dtype.range();
            assert_eq!(i64::from(max) - i64::from(min), (1 << (8 * dtype.bytes())) - 1, "{}", dtype.name());
        }
        assert_eq!(Dtype::from_byte(5), None);
    }
}
