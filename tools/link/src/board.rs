//! A board one can buy, as far as a model is concerned.

use crate::Core;

/// A board: one microcontroller with its memories.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Board {
    /// Name of its folder, and on command lines.
    pub key: &'static str,
    /// Name of the board.
    pub name: &'static str,
    /// Microcontroller.
    pub chip: &'static str,
    /// Its core.
    pub core: Core,
    /// Clock in MHz.
    pub clock_mhz: u32,
    /// Flash that holds program and model, in KiB.
    pub flash_kib: u32,
    /// RAM in one piece that an arena can use, in KiB.
    pub ram_kib: u32,
    /// Document that states these figures.
    pub source: &'static str,
}
