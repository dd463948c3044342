//! x86-64: the level is chosen once, by what the processor has (feature `std`) or by the target features alone.

#![allow(unsafe_code)]

use super::Kernels;

/// The fastest kernels of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Kernels for Native {
    const NAME: &'static str = "native";
}
