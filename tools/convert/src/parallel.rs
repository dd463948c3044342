//! Work on several threads (feature `parallel`), or in a row: the results are the same bits either way.

#[cfg(feature = "parallel")]
use rayon::prelude::*;

/// Parts that a fold is made of. Fixed, so that sums of floats do not depend on the number of threads.
const PARTS: usize = 16;

/// `f` of every item, in order.
pub fn map<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "parallel")]
    return items.into_par_iter().map(f).collect();
    #[cfg(not(feature = "parallel"))]
    items.into_iter().map(f).collect()
}

/// `f` of every item, in order.
///
/// # Errors
/// One of the errors of `f`.
pub fn try_map<T: Send, R: Send, E: Send>(
    items: Vec<T>,
    f: impl Fn(T) -> Result<R, E> + Sync + Send,
) -> Result<Vec<R>, E> {
    #[cfg(feature = "parallel")]
    return items.into_par_iter().map(f).collect();
    #[cfg(not(feature = "parallel"))]
    items.into_iter().map(f).collect()
}

/// At most [`PARTS`] runs of neighbours.
pub fn parts<T>(items: &[T]) -> impl Iterator<Item = &[T]> {
    items.chunks(items.len().div_ceil(PARTS).max(1))
}

/// Folds the items of each of at most [`PARTS`] runs of neighbours from `start`, then joins the runs in order.
///
/// # Errors
/// One of the errors of `step`.
pub fn try_fold<T: Sync, A: Send, E: Send>(
    items: &[T],
    start: impl Fn() -> A + Sync + Send,
    step: impl Fn(A, &T) -> Result<A, E> + Sync + Send,
    join: impl Fn(A, A) -> A,
) -> Result<A, E> {
    let parts = try_map(parts(items).collect(), |part| part.iter().try_fold(start(), &step))?;
    Ok(parts.into_iter().reduce(join).unwrap_or_else(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fold_keeps_the_order_of_its_items() {
        let items: Vec<u32> = (0..100).collect();
        let push = |mut all: Vec<u32>, &i: &u32| {
            all.push(i);
            Ok::<_, ()>(all)
        };
        let join = |a: Vec<u32>, b| [a, b].concat();
        assert_eq!(try_fold(&items, Vec::new, push, join), Ok(items.clone()));
        assert_eq!(try_fold(&items[..0], Vec::new, push, join), Ok(Vec::new()));
        assert_eq!(try_fold(&items, || 0, |_, &i| if i == 70 { Err(i) } else { Ok(0) }, |a, _| a), Err(70));
    }
}
