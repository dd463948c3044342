//! Scratch memory of the threads of a host.

use crate::AlignedBytes;
use core::cell::RefCell;
use std::vec::Vec;

std::thread_local! {
    /// Scratch areas that no job of this thread uses.
    static FREE: RefCell<Vec<AlignedBytes>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `bytes` bytes aligned to 16, of any content.
pub(crate) fn with_scratch<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut area = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if area.len() < bytes {
        area = AlignedBytes::zeroed(bytes);
    }
    let result = work(area.get_mut(..bytes).unwrap_or(&mut []));
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
