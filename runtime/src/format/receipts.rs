//! Receipts: reference inputs with the digest of every operator's output, so that a device can prove itself.
//!
//! Layout: `u32` count of receipts, `u32` bytes per receipt; each receipt is the inputs' bytes in the order of the `Io`
//! section, each padded to 8 bytes, then one digest (`u64`) per operator.

/// The receipts of a model.
#[derive(Clone, Copy)]
pub struct Receipts<'m> {
    bytes: &'m [u8],
    count: usize,
    stride: usize,
    n_ops: usize,
}

/// One reference run.
#[derive(Clone, Copy)]
pub struct Receipt<'m> {
    inputs: &'m [u8],
    digests: &'m [u8],
}

impl<'m> Receipts<'m> {
    /// Bytes an input of `bytes` takes in a receipt.
    pub const fn padded(bytes: usize) -> usize {
        bytes.next_multiple_of(8)
    }

    /// Checks the section. `input_bytes` is the sum of [`Self::padded`] over the inputs. An empty section is no receipts.
    pub(crate) fn new(section: &'m [u8], input_bytes: usize, n_ops: usize) -> Option<Self> {
        if section.is_empty() {
            return Some(Self { bytes: section, count: 0, stride: 1, n_ops });
        }
        let (head, bytes) = section.split_at_checked(8)?;
        let (count, stride) = head.split_at_checked(4)?;
        let count = u32::from_le_bytes(count.try_into().ok()?) as usize;
        let stride = u32::from_le_bytes(stride.try_into().ok()?) as usize;
        let fits = stride == input_bytes.checked_add(n_ops.checked_mul(8)?)?
            && stride > 0
            && count.checked_mul(stride)? == bytes.len();
        fits.then_some(Self { bytes, count, stride, n_ops })
    }

    /// Number of reference runs.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The `index`-th reference run.
    pub fn get(&self, index: usize) -> Option<Receipt<'m>> {
        let receipt = self.bytes.chunks_exact(self.stride.max(1)).nth(index)?;
        let (inputs, digests) = receipt.split_at_checked(receipt.len().checked_sub(self.n_ops * 8)?)?;
        Some(Receipt { inputs, digests })
    }
}

impl<'m> Receipt<'m> {
    /// Takes the inputs apart: `f(size in bytes of each input in turn)`.
    pub fn inputs(&self, sizes: impl Iterator<Item = usize>) -> impl Iterator<Item = &'m [u8]> {
        let mut rest = self.inputs;
        sizes.map_while(move |bytes| {
            let (padded, tail) = rest.split_at_checked(Receipts::padded(bytes))?;
            rest = tail;
            padded.get(..bytes)
        })
    }

    /// The expected digest of operator `op`.
    pub fn digest(&self, op: usize) -> Option<u64> {
        let bytes = self.digests.chunks_exact(8).nth(op)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}
