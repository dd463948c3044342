//! The arithmetic inner loops, one folder per instruction set, all with the same functions and the same bytes out.
//!
//! [`Kernels`] is the one interface. Its provided methods are the portable definitions; an instruction set has a table
//! that says which of them it does faster, and which not. Every override is compared with [`Portable`] by plain equality
//! over one case table. `list.rs` says how to add a method.

#[cfg(arm_v6m)]
mod armv6m;
#[cfg(arm_dsp)]
mod armv7em;
#[cfg(arm_v7m)]
mod armv7m;
#[cfg(arm_mve)]
mod helium;
mod job;
pub(crate) mod list;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(all(target_arch = "arm", target_os = "linux"))]
pub mod neon32;
#[cfg(feature = "parallel")]
pub(crate) mod parallel;
pub mod portable;
#[cfg(riscv_m)]
mod riscv32;
#[cfg(any(arm_v7m, riscv_m))]
mod scalar;
#[cfg(feature = "std")]
mod scratch;
#[cfg(wasm_simd)]
mod wasm32;
#[cfg(target_arch = "x86_64")]
pub mod x86;

#[cfg(arm_v6m)]
pub use armv6m::Armv6m as Native;
#[cfg(arm_dsp)]
pub use armv7em::Armv7em as Native;
#[cfg(arm_v7m)]
pub use armv7m::Armv7m as Native;
#[cfg(arm_mve)]
pub use helium::Helium as Native;
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "arm", target_os = "linux"),
    wasm_simd
))]
pub(crate) use job::whole_rows;
pub use job::{
    AttentionJob, DepthwiseJob, DepthwiseOut, DotJob, ExpRow, LUT_I16_ENTRIES, LinearJob, LinearOut, NormJob, NormOut,
    NormRow, PoolJob, PoolMean, ROW_BLOCK, RotaryJob, ScoreBias, ScoreScale, WideJob, Windows, attend_scratch_bytes,
    dense_scratch_bytes, linear_scratch_bytes, wide_scratch_bytes,
};
pub use list::Kernels;
#[cfg(target_arch = "aarch64")]
pub use neon::Native;
#[cfg(all(target_arch = "arm", target_os = "linux"))]
pub use neon32::Native;
#[cfg(feature = "parallel")]
pub use parallel::Parallel;
pub use portable::Portable;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "arm", target_os = "linux"),
    arm_dsp,
    arm_v6m,
    arm_v7m,
    arm_mve,
    riscv_m,
    wasm_simd
)))]
pub use portable::Portable as Native;
#[cfg(riscv_m)]
pub use riscv32::Riscv32 as Native;
#[cfg(feature = "std")]
pub(crate) use scratch::with_scratch;
#[cfg(wasm_simd)]
pub use wasm32::Simd128 as Native;
#[cfg(target_arch = "x86_64")]
pub use x86::Native;

pub use crate::weights::{GROUP, PANEL, PackedWeights, WeightFormat};
