//! What cores without SIMD share: those with a 64-bit product and registers for two rows of accumulators at least.
//!
//! The inner loops are in the folder of the instruction set, behind [`Block`]; the walk over rows and channels, the
//! requantization and the rows between the products are here.
#![allow(unsafe_code)]

pub mod dense;
pub mod dot;
pub mod norm;
pub mod product;
pub mod softmax;

/// Rows of activations that a block takes at a time.
pub const ROWS: usize = 4;

/// What a block works on.
#[repr(C)]
pub struct Frame {
    /// `[ROWS][PANEL]` sums (one row: `[PANEL]`) from the first channel on, added to.
    pub sums: usize,
    /// First activation, widened to 16 bits: `[k][ROWS]`, or `[k]` for one row.
    pub x: usize,
    /// End of the activations.
    pub x_end: usize,
    /// First weight of every channel.
    pub weights: [usize; crate::kernels::PANEL],
}

/// The inner loops of an instruction set.
pub trait Block {
    /// Channels that [`dense`](Self::dense) and [`rows`](Self::rows) take at a time: a divisor of a panel.
    const CHANNELS: usize;

    /// [`ROWS`] rows by [`CHANNELS`](Self::CHANNELS) channels of a panel, the first of which begins at `weights[0]`.
    ///
    /// # Safety
    /// All addresses are valid: the sums, activations in whole groups of 16 and at least one, the groups of the panel.
    unsafe fn dense(frame: &Frame);

    /// [`ROWS`] rows by [`CHANNELS`](Self::CHANNELS) plain rows of bytes, each with an address of its own.
    ///
    /// # Safety
    /// All addresses are valid: the sums, activations in whole groups of 4 and at least one, as many bytes of each row.
    unsafe fn rows(frame: &Frame);

    /// One row by the four channels of a panel.
    ///
    /// # Safety
    /// As for [`dense`](Self::dense).
    unsafe fn row(frame: &Frame);
}
