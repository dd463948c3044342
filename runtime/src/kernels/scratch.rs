//! Scratch memory of the threads of a host.

use core::cell::RefCell;
use std::vec::Vec;

std::thread_local! {
    /// Scratch areas that no job of this thread uses.
    static FREE: RefCell<Vec<Vec<u128>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `bytes` bytes aligned to 16, of any content.
pub(crate) fn with_scratch<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut area = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    // A word more: on 32-bit Arm their alignment is 8.
    let words = bytes.div_ceil(16) + 1;
    if area.len() < words {
        area.resize(words, 0);
    }
    let first = (area.as_ptr() as usize).wrapping_neg() % 16;
    let memory = bytemuck::cast_slice_mut(&mut area).get_mut(first..).and_then(|memory| memory.get_mut(..bytes));
    let result = work(memory.unwrap_or(&mut []));
    FREE.with_borrow_mut(|free| free.push(area));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_and_apart() {
        with_scratch(40, |outer| {
            with_scratch(100, |inner| {
                outer.fill(1);
                inner.fill(2);
                assert!((outer.len(), inner.len()) == (40, 100) && outer.iter().all(|&b| b == 1));
                assert!([outer.as_ptr(), inner.as_ptr()].iter().all(|p| (*p as usize).is_multiple_of(16)));
            });
        });
        with_scratch(0, |none| assert!(none.is_empty()));
    }
}
