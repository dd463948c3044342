//! Hides an iterator's exact length, so that `zip` needs no division (and no panic).

/// The same items, one by one.
///
/// A zip of two chunk iterators divides to learn how many chunks there are. Where the compiler does not inline that, the
/// question whether a chunk size is zero, and a panic behind it, stays in the program. Only asking for the next item
/// needs no division.
#[inline(always)]
pub(crate) fn stepwise<I: Iterator>(mut items: I) -> impl Iterator<Item = I::Item> {
    core::iter::from_fn(move || items.next())
}
