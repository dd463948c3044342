//! A model that was proven when the firmware was built.

use crate::format::CRC;

/// The bytes of a model that a tool has opened, with every check, when the firmware was built.
///
/// The module that `shiftformer codegen` writes has one as a constant, so that the compiler compares the file with the
/// checksum of the one that was proven: a build with another file fails. [`Model::open_proven`](crate::Model::open_proven)
/// then leaves out what depends on the content of the weights alone, which is most of what opening costs.
#[derive(Clone, Copy)]
pub struct Proven<'m> {
    file: &'m [u8],
}

impl<'m> Proven<'m> {
    /// The model in `file`, where its CRC-32 is `checksum`, that of a file for which [`Model::open`](crate::Model::open)
    /// succeeded; `None` where it is not. In a constant it is computed by the compiler; a boot loader that has verified a
    /// signature may call it as well.
    pub const fn new(file: &'m [u8], checksum: u32) -> Option<Self> {
        if CRC.checksum(file) == checksum { Some(Self { file }) } else { None }
    }

    /// The model in `file`, for which [`Model::open`](crate::Model::open) succeeded when the firmware was built, where
    /// something else than a checksum says that it is still that: an array that `shiftformer codegen` wrote into a C file, a
    /// verified signature. Another model may compute anything, without reading or writing out of place.
    pub const fn trusted(file: &'m [u8]) -> Self {
        Self { file }
    }

    /// The checksum of `file` for [`new`](Self::new).
    pub const fn checksum(file: &[u8]) -> u32 {
        CRC.checksum(file)
    }

    /// The bytes.
    pub const fn file(&self) -> &'m [u8] {
        self.file
    }
}
