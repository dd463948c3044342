//! Names of classes.

use super::Model;
use crate::format::SectionKind;
use crate::kernels::Kernels;

/// Bytes of the section before the names.
const HEAD: usize = 4;

impl<'m, B: Kernels> Model<'m, B> {
    /// Name of class `class` of output `output`. `None` where the file has none; see `Labels` in [`crate::format`].
    pub fn label(&self, output: usize, class: usize) -> Option<&'m str> {
        let (head, names) = self.sections.get(SectionKind::Labels).split_first_chunk::<HEAD>()?;
        if u32::from_le_bytes(*head) as usize != output {
            return None;
        }
        core::str::from_utf8(names.split(|&byte| byte == b'\n').nth(class)?).ok()
    }
}
