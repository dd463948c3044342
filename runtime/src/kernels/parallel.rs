//! One inference on several threads, those of the rayon pool it runs in.
//!
//! Operators whose rows do not depend on each other divide them by [`Kernels::join`]; each part is a job of the kernels
//! `B`, and no sum is divided, so the bytes are those of one thread. One row of a dense layer is divided by channels here.

use super::list::signatures::*;
use super::list::{each_kernel, same_constants};
use super::{Kernels, PANEL, PackedWeights, with_scratch};
use core::marker::PhantomData;

/// Minimum work of a part, in multiplications: 5 us with AVX-512, 20 us with AVX2. Between operators that are too short to
/// be divided the other threads fall asleep, and waking them takes longer than such parts do. Elsewhere a quarter of the
/// work, between 2 us (SMMLA at 2.7 GHz) and 80 us (Cortex-A53).
const GRAIN: u64 = if cfg!(target_arch = "x86_64") { 1 << 20 } else { 1 << 18 };
/// Channels that kernels for hosts take at a time, or a multiple of it.
const CHANNELS: usize = 32;

/// The kernels `B` on several threads: those of the rayon pool in which the session runs.
///
/// ```
/// use shiftformer::kernels::{Native, Parallel};
/// use shiftformer::ops::OpTable;
/// use shiftformer::{AlignedBytes, Model, Session};
///
/// /// The first output for one input, computed by all threads of `pool`.
/// fn infer(pool: &rayon::ThreadPool, file: &[u8], input: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
///     let model = Model::open_with(file, OpTable::<Parallel<Native>>::ALL)?;
///     let mut arena = AlignedBytes::zeroed(model.arena_bytes());
///     let mut session = Session::new(&model, &mut arena)?;
///     session.input_mut(0).ok_or("no input")?.copy_from_slice(input);
///     pool.install(|| session.run())?;
///     Ok(session.output(0).ok_or("no output")?.to_vec())
/// }
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
/// assert!(infer(&pool, b"not a model", &[0; 64]).is_err());
/// ```
///
/// Outside of a pool the threads are those of rayon's global one, and the caller waits for them operator by operator,
/// which takes longer. The other threads keep scratch memory on the heap. `LEAST` is the minimum work of a part, in
/// multiplications.
#[derive(Clone, Copy, Debug)]
pub struct Parallel<B, const LEAST: u64 = GRAIN>(PhantomData<fn() -> B>);

/// Dense layers divide the channels of one row; everything else is a method of `B`.
macro_rules! divided {
    (fn linear($($arg:ident: $type:ty),*)) => {
        fn linear($($arg: $type),*) { linear::<B, Self>($($arg),*) }
    };
    (fn linear_acc($($arg:ident: $type:ty),*)) => {
        fn linear_acc($($arg: $type),*) { linear_acc::<B, Self>($($arg),*) }
    };
    (fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $name($($arg: $type),*) $(-> $result)? { B::$name($($arg),*) }
    };
}

impl<B: Kernels, const LEAST: u64> Kernels for Parallel<B, LEAST> {
    const NAME: &'static str = B::NAME;
    same_constants! { B }
    each_kernel! { divided }

    fn parts(work: u64) -> usize {
        let worth = usize::try_from(work / LEAST.max(1)).unwrap_or(usize::MAX);
        if worth < 2 { 1 } else { worth.min(rayon::current_num_threads()) }
    }

    fn join<X: Send, Y: Send>(a: impl FnOnce() -> X + Send, b: impl FnOnce() -> Y + Send) -> (X, Y) {
        rayon::join(a, b)
    }
}

/// [`Kernels::linear`] of `B`, divided by the parts of `P`.
fn linear<B: Kernels, P: Kernels>(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
    channels::<B>(channel_parts::<P>(job), job, x, Out::Requantized(out), scratch);
}

/// [`Kernels::linear_acc`] of `B`, divided by the parts of `P`.
fn linear_acc<B: Kernels, P: Kernels>(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
    channels::<B>(channel_parts::<P>(job), job, x, Out::Sums(out), scratch);
}

/// Where a row of a dense layer goes.
enum Out<'a> {
    Requantized(LinearOut<'a>),
    Sums(&'a mut [i32]),
}

impl Out<'_> {
    /// The channels before `at` and those from there on.
    fn split(self, at: usize) -> (Self, Self) {
        match self {
            Self::Sums(out) => {
                let (low, high) = halves(out, at);
                (Self::Sums(low), Self::Sums(high))
            }
            Self::Requantized(LinearOut::I8 { out, lut }) => {
                let [low, high] = <[_; 2]>::from(halves(out, at)).map(|out| LinearOut::I8 { out, lut });
                (Self::Requantized(low), Self::Requantized(high))
            }
            Self::Requantized(LinearOut::I16 { out }) => {
                let [low, high] = <[_; 2]>::from(halves(out, at)).map(|out| LinearOut::I16 { out });
                (Self::Requantized(low), Self::Requantized(high))
            }
            Self::Requantized(LinearOut::I16Residual { out, residual_shift }) => {
                let part = |out| LinearOut::I16Residual { out, residual_shift };
                let [low, high] = <[_; 2]>::from(halves(out, at)).map(part);
                (Self::Requantized(low), Self::Requantized(high))
            }
        }
    }
}

fn halves<T>(out: &mut [T], at: usize) -> (&mut [T], &mut [T]) {
    out.split_at_mut(at.min(out.len()))
}

/// Parts of the channels of a job: several only where it has one row.
fn channel_parts<P: Kernels>(job: &LinearJob<'_>) -> usize {
    if job.rows == 1 { P::parts((job.k as u64).saturating_mul(job.n as u64)) } else { 1 }
}

/// A dense layer of the kernels `B`, its channels in `parts` parts.
fn channels<B: Kernels>(parts: usize, job: &LinearJob<'_>, x: &[i8], out: Out<'_>, scratch: &mut [u8]) {
    let first_parts = parts / 2;
    let at = (job.n * first_parts / parts.max(1)).next_multiple_of(CHANNELS);
    let Some((low, high)) = (if parts < 2 || at >= job.n { None } else { split(job, at) }) else {
        return match out {
            Out::Requantized(out) => B::linear(job, x, out, scratch),
            Out::Sums(out) => B::linear_acc(job, x, out, scratch),
        };
    };
    let (low_out, high_out) = out.split(at);
    let bytes = scratch.len();
    rayon::join(
        || channels::<B>(first_parts, &low, x, low_out, scratch),
        || with_scratch(bytes, |scratch| channels::<B>(parts - first_parts, &high, x, high_out, scratch)),
    );
}

/// The channels of a job before `at` and those from there on; `None` where a slice is too short.
fn split<'a>(job: &LinearJob<'a>, at: usize) -> Option<(LinearJob<'a>, LinearJob<'a>)> {
    let format = job.weights.format;
    let (low, high) = job.weights.bytes.split_at_checked(PackedWeights::bytes_for(at, job.k, format))?;
    let (low_bias, high_bias) = job.bias.split_at_checked(at)?;
    let (low_multipliers, high_multipliers) = job.multipliers.split_at_checked(at)?;
    let part = |n, bytes, bias, multipliers| LinearJob {
        n,
        weights: PackedWeights { bytes, format },
        bias,
        multipliers,
        ..*job
    };
    Some((part(at, low, low_bias, low_multipliers), part(job.n - at, high, high_bias, high_multipliers)))
}

const _: () = assert!(CHANNELS.is_multiple_of(PANEL));

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::{Native, Portable};
    use crate::testing;
    use std::sync::LazyLock;

    /// Threads, whatever the machine has.
    pub static POOL: LazyLock<rayon::ThreadPool> =
        LazyLock::new(|| rayon::ThreadPoolBuilder::new().num_threads(5).build().expect("threads"));

    fn check<B: Kernels>() {
        let mut memory = std::vec![0u8; testing::LARGE_BYTES];
        POOL.install(|| {
            testing::check::<Parallel<B, 1>>(&mut memory).unwrap_or_else(|d| panic!("{}: {d:?}", B::NAME));
            testing::check_large::<Parallel<B, 1>>(&mut memory).unwrap_or_else(|d| panic!("{}: {d:?}", B::NAME));
        });
    }

    #[test]
    fn several_threads_are_portable() {
        check::<Portable>();
        check::<Native>();
    }

    #[test]
    fn one_row_is_divided_by_channels() {
        use crate::weights::WeightFormat::{I2, I3, I4, I8};
        use testing::{Fill, LinearCase, Output};
        let mut memory = std::vec![0u8; testing::LARGE_BYTES];
        for (index, n) in [31, 32, 33, 64, 100, 161, 1000].into_iter().enumerate() {
            let outputs = [
                (I8, Output::Lut),
                (I4, Output::I8),
                (I8, Output::I16),
                (I4, Output::Residual(2)),
                (I3, Output::I8),
                (I2, Output::I16),
            ];
            for (format, output) in outputs {
                let case = LinearCase {
                    size: [1, 70, n],
                    format,
                    gaps: [3, 5],
                    skew: 1,
                    output,
                    fill: Fill::Random,
                    acc_shift: 0,
                };
                let checked = POOL.install(|| testing::linear::<Parallel<Native, 1>>(2000 + index, &case, &mut memory));
                assert_eq!(checked, Ok(()));
            }
        }
        assert!(POOL.install(|| Parallel::<Native, 1>::parts(1000)) == 5);
    }

    #[test]
    fn work_is_divided_where_parts_are_worth_it() {
        let parts = |work| POOL.install(|| Parallel::<Portable, 100>::parts(work));
        assert_eq!([0, 99, 199, 200, 450, 1 << 40].map(parts), [1, 1, 1, 2, 4, 5]);
        assert_eq!(Parallel::<Portable, 0>::parts(0), 1);
        assert_eq!(Portable::parts(u64::MAX), 1);
    }
}
