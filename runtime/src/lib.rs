//! Integer-only transformer inference, the same bytes on every machine.
//!
//! No floating point, no heap (except scratch memory per thread with the feature `std`), no panic, and no `unsafe` outside
//! the instruction-set kernels. A model is a `.sfm` file made by `shiftformer convert`; it is read in place.
//!
//! ```
//! use shiftformer::{Aligned, Model, Session};
//!
//! /// The class of an image, or what is wrong.
//! fn classify(file: &[u8], pixels: &[u8]) -> Result<usize, Box<dyn std::error::Error>> {
//!     let model = Model::open(file)?;
//!     let mut arena = Aligned([0; 16 * 1024]);
//!     let mut session = Session::new(&model, &mut arena.0)?;
//!     session.input_mut(0).ok_or("no input")?.copy_from_slice(pixels);
//!     session.run()?;
//!     let logits = session.output_as::<i16>(0).ok_or("no 16-bit output")?;
//!     Ok((0..logits.len()).max_by_key(|&i| logits[i]).unwrap_or(0))
//! }
//! assert!(classify(b"not a model", &[0; 64]).is_err());
//! ```
//!
//! A [`Model`] is read only and may be shared; the state of an inference is in the [`Session`]'s arena. For batches, every
//! thread takes a session with an arena of its own:
//!
//! ```
//! # #[cfg(feature = "alloc")]
//! # mod example {
//! use shiftformer::{AlignedBytes, Model, Session};
//!
//! /// The outputs of two halves of a batch, on two threads.
//! fn batch(model: &Model<'_>, halves: [&[Vec<u8>]; 2]) -> [Vec<Vec<u8>>; 2] {
//!     let half = |samples: &[Vec<u8>]| {
//!         let mut arena = AlignedBytes::zeroed(model.arena_bytes());
//!         let mut run = |sample: &Vec<u8>| {
//!             let mut session = Session::new(model, &mut arena).ok()?;
//!             session.input_mut(0)?.copy_from_slice(sample);
//!             session.run().ok()?;
//!             Some(session.output(0)?.to_vec())
//!         };
//!         samples.iter().filter_map(&mut run).collect()
//!     };
//!     std::thread::scope(|scope| {
//!         let [first, second] = halves.map(|samples| scope.spawn(move || half(samples)));
//!         [first.join().unwrap_or_default(), second.join().unwrap_or_default()]
//!     })
//! }
//! # }
//! ```
//!
//! One inference on several threads: `kernels::Parallel`, with the feature `parallel`. It divides the rows of operators
//! among the threads of a rayon pool; the bytes are the same.
//!
//! - [`format`]: the byte layout of `.sfm` files and its version rule.
//! - [`ops`]: the operators with their parameters and checks.
//! - [`kernels`]: the inner loops per instruction set; [`kernels::Portable`] defines the right answer.
//! - [`weights`]: the formats of packed weights, one file each.
//! - [`text`]: text to token ids and back, and the choice of the next token.
//! - [`arith`]: the integer arithmetic with its error bounds.
//! - [`audio`]: features of sound, from samples to the input of a keyword spotter.
//!
//! # State
//!
//! A decoder keeps keys and values from one run to the next: [`Session::with_state`] takes memory for them besides the
//! arena. A run reads and writes as many rows as were [fed](Session::feed), moves [`position`](Session::position) on when
//! it finishes, and leaves it where it was when it does not. [`truncate`](Session::truncate) goes back,
//! [`snapshot`](Session::snapshot) and [`restore`](Session::restore) keep a prompt.
//!
//! # Stability
//!
//! [`Model`], [`Session`], the errors and the container follow semantic versioning; error lists may grow and are
//! `#[non_exhaustive]`. The lists of operators, element types and weight formats are exhaustive on purpose, so that tools
//! that must handle each of them do not compile when one is missing: a new one is a new minor version before 1.0 and a
//! major version after. Jobs of [`kernels`] and parameters of [`ops`] are for tools built with the same version.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(all(feature = "alloc", not(any(test, feature = "std"))))]
extern crate alloc as std;
#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(any(test, feature = "alloc"))]
mod aligned;
pub mod arith;
pub mod audio;
pub mod format;
pub mod kernels;
mod model;
pub mod ops;
mod session;
mod stepwise;
pub mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod weights;

#[cfg(any(test, feature = "alloc"))]
#[cfg_attr(docsrs, doc(cfg(feature = "alloc")))]
pub use aligned::AlignedBytes;
pub use model::{Chain, MAX_CHAIN, Model, ModelError, Proven, SectionName};
pub use ops::RunFault;
pub use session::{ArenaError, Digests, Observer, Part, Progress, Session, SnapshotError};

/// Aligns an arena or an `include_bytes!` model to 16 bytes: `static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(..))`.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct Aligned<T: ?Sized>(pub T);
