//! Bytes on the heap at the address that models and arenas want.

use crate::format::SECTION_ALIGN;
use core::fmt;
use core::ops::{Deref, DerefMut};
use std::boxed::Box;
use std::vec;

/// Bytes on the heap that start at a multiple of 16: a model file, an arena or a state. Only with the feature `alloc`.
///
/// No element type of the standard library has this alignment on every machine: `u128` has 8 on 32-bit Arm.
///
/// ```
/// use shiftformer::AlignedBytes;
///
/// let mut arena = AlignedBytes::zeroed(1000);
/// assert_eq!(arena.as_ptr() as usize % 16, 0);
/// arena[999] = 1;
/// assert_eq!(AlignedBytes::from(&arena[..]), arena);
/// ```
pub struct AlignedBytes {
    /// The bytes, from `first` on, and what is left around them.
    memory: Box<[u8]>,
    first: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` bytes of 0.
    ///
    /// # Panics
    /// As `Vec` does, when there is no such memory.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0; len.saturating_add(SECTION_ALIGN - 1)].into_boxed_slice();
        let first = (memory.as_ptr() as usize).wrapping_neg() % SECTION_ALIGN;
        Self { memory, first, len }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.first..][..self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..][..self.len]
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl PartialEq for AlignedBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for AlignedBytes {}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_length_and_every_copy_starts_at_a_multiple_of_16() {
        let mut kept = Vec::new();
        for len in [0, 1, 15, 16, 17, 4096, 100_001] {
            let mut bytes = AlignedBytes::zeroed(len);
            bytes.fill(7);
            let copy = bytes.clone();
            assert_eq!([bytes.len(), copy.len()], [len; 2]);
            assert_eq!([&bytes, &copy].map(|bytes| bytes.as_ptr() as usize % 16), [0; 2]);
            assert_eq!(bytes, copy);
            assert!(copy.iter().all(|&byte| byte == 7));
            // Other addresses for the next.
            kept.push((bytes, copy, std::vec![0u8; len % 7 + 1]));
        }
    }
}
