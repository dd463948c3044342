//! Integer-only transformer inference.
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod arith;
pub mod format;
pub mod kernels;
pub mod tensor;
