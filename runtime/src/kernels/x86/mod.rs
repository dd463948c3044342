//! x86-64: the level is chosen once, by what the processor has (feature `std`) or by the target features alone.
//!
//! Functions of a level carry its target features; the only way to them is a check of the level in this file.

#![allow(unsafe_code)]

mod avx512;

use super::{Kernels, LinearJob, LinearOut, portable};

/// `feature!("avx2", ...)`: whether code for all of these features may run.
macro_rules! features {
    ($($name:tt),*) => {{
        #[cfg(feature = "std")]
        let all = true $(&& std::arch::is_x86_feature_detected!($name))*;
        #[cfg(not(feature = "std"))]
        let all = true $(&& cfg!(target_feature = $name))*;
        all
    }};
}

/// AVX-512 with VNNI (Ice Lake, Zen 4 and later). Portable where the processor lacks them.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

impl Avx512 {
    /// Whether this processor has what the level needs.
    pub fn is_available() -> bool {
        features!("avx512f", "avx512bw", "avx512vl", "avx512vnni")
    }
}

impl Kernels for Avx512 {
    const NAME: &'static str = "avx512";

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, _scratch: &mut [u8]) {
        if !Self::is_available() {
            return portable::linear(job, x, out);
        }
        // SAFETY: the level is available.
        unsafe { avx512::linear(job, x, out) }
    }
}

fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    portable::lut_in_place(data, table);
}

/// The fastest kernels of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Kernels for Native {
    const NAME: &'static str = "native";

    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        Avx512::linear(job, x, out, scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::vec;

    /// Runs the table and larger shapes.
    fn check<B: Kernels>() {
        let mut memory = vec![0u8; 4 << 20];
        testing::check::<B>(&mut memory).unwrap_or_else(|d| panic!("{}: {d:?}", B::NAME));
    }

    #[test]
    fn avx512_is_portable() {
        if Avx512::is_available() {
            check::<Avx512>();
        } else {
            std::eprintln!("SKIPPED: no AVX-512-VNNI here");
        }
    }

    #[test]
    fn native_is_portable() {
        check::<Native>();
    }
}
