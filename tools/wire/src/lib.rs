//! A model on a device at the end of a serial line, and the host that asks it: what the model is, runs on inputs of the host,
//! outputs and digests of every operator, receipts, times, uploads.
//!
//! # Frames
//!
//! A message is a [`Message`] in postcard's encoding, then its CRC-32 (little-endian), in COBS, between zero bytes. What lies
//! between frames is text for people: a device may print. A frame that is damaged is no frame; nobody answers it.
//!
//! # Who says what
//!
//! The host asks, the device answers, one request at a time. A request that is not answered in time is sent again with the same
//! number, and the device sends the answer again that it gave: nothing is done twice. Answers to earlier requests are passed over.
//!
//! A [`Request::Hello`] starts a session, whose number the host chooses. A device that has started anew knows no session and says so
//! ([`Response::Lost`]), as does one that a request of the session has not reached; the host then begins again. So inputs of one run never meet those of another, whatever a line does to
//! frames: it may lose, repeat, damage and reorder them.
//!
//! # On the device
//!
//! [`serve`] runs over any [`embedded_io::Read`] and [`embedded_io::Write`]:
//!
//! ```
//! use embedded_io::{Read, Write};
//! use shiftformer::kernels::Native;
//! use shiftformer_wire::{Device, serve};
//!
//! /// Serves the line for ever. `memory` is aligned to 16 bytes; an uploaded model lies there too.
//! fn answer<IO: Read + Write>(line: IO, memory: &mut [u8], model: &[u8], ticks: fn() -> u32) -> Result<(), IO::Error> {
//!     let device = Device { board: "blinky", counter_hz: 64_000_000, ticks };
//!     serve::<Native, IO>(&device, memory, model, line)
//! }
//! ```
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

#[cfg(feature = "std")]
mod client;
mod frame;
mod message;
mod server;

#[cfg(feature = "std")]
pub use client::{Answer, Client, Link, Status, WireError};
pub use frame::{Collector, FRAME_BYTES, Scratch, encode};
pub use message::{CHUNK, Info, Message, ModelInfo, OpResult, PROTOCOL, Request, Response};
pub use server::{Device, serve};
