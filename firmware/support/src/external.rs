//! A flash outside of the address space.

use crate::Board;
use embedded_storage_async::nor_flash::ReadNorFlash;

/// A board with an external flash.
pub trait External: Board {
    /// The flash.
    type Flash: ReadNorFlash;

    /// The flash, ready to be read; called once.
    fn flash() -> Self::Flash;
}
