//! Models whose weights stay in external flash: a core reads the next part of a model while it runs the one before.
//!
//! `shiftformer split` cuts a model into *segments*, each a `.sfm` file of its own that fits a buffer, all over one arena: what a
//! segment leaves there is the input of the next. Two buffers in RAM take turns. While the segment in one of them runs, step by
//! step, the next is read into the other; with a [`SpiDevice`](embedded_hal_async::spi::SpiDevice) that works by DMA the two
//! overlap. The bytes are those of the whole model.
//!
//! The first run checks and proves every segment, like any model; a later one compares its checksum with that of the segment that
//! was proven. What one leaves and what the next takes is compared besides: a flash that holds parts of two models is refused.
//!
//! # Form
//!
//! A header of twelve little-endian words: magic, layout, segments, bytes of the largest, bytes of the arena, reference runs,
//! bytes of their inputs, outputs, offset of the reference runs, bytes in all, CRC-32 of the checksums of the segments, CRC-32
//! of the words before. A table of four words per segment: offset, bytes, CRC-32 of the segment, CRC-32 of the header's
//! checksum, the number and the words before. Then the segments, each at a multiple of 16, and the reference runs: inputs, a
//! digest per output, CRC-32.
//!
//! ```
//! use embedded_storage_async::nor_flash::ReadNorFlash;
//! use shiftformer::kernels::Native;
//! use shiftformer::ops::OpTable;
//! use shiftformer_stream::{Memory, StreamError, Streamed};
//!
//! /// The logits of an image, by a model at the start of `flash`.
//! async fn classify<F: ReadNorFlash>(
//!     flash: F,
//!     memory: Memory<'_>,
//!     image: &[u8],
//!     logits: &mut [u8],
//! ) -> Result<(), StreamError<F::Error>> {
//!     let mut model = Streamed::open(flash, 0).await?;
//!     let write = |_input: usize, bytes: &mut [u8]| bytes.copy_from_slice(image);
//!     let read = |_output: usize, bytes: &[u8]| logits.copy_from_slice(bytes);
//!     model.run::<Native>(memory, OpTable::ALL, write, read).await
//! }
//! ```
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

mod form;
#[cfg(feature = "std")]
mod image;
mod spi;
mod streamed;

pub use form::Header;
#[cfg(feature = "std")]
pub use image::{ImageError, Reference, image};
pub use spi::{SpiFlash, SpiFlashError};
pub use streamed::{Memory, StreamError, Streamed};
