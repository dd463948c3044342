//! Reading and running the segments in turns.

use crate::form::{CRC_BYTES, DIGEST_BYTES, ENTRY_BYTES, Entry, HEADER_BYTES, Header, HeaderFault};
use core::fmt;
use embassy_futures::join::join;
use embassy_futures::yield_now;
use embedded_storage_async::nor_flash::ReadNorFlash;
use shiftformer::format::{CRC, TensorRecord};
use shiftformer::kernels::Kernels;
use shiftformer::ops::{self, RunFault};
use shiftformer::{ArenaError, Model, ModelError, Progress, Proven, Session};

/// A model in a flash that is not in the address space.
#[derive(Clone, Debug)]
pub struct Streamed<F> {
    flash: F,
    /// Of the image, in the flash.
    start: u32,
    header: Header,
    header_crc: u32,
    proven: Bits,
}

/// Words of [`Bits`].
const BIT_WORDS: usize = 8;

/// The segments that have been proven; those beyond the last bit are proven each time.
#[derive(Clone, Debug, Default)]
struct Bits([u32; BIT_WORDS]);

impl Bits {
    fn has(&self, segment: u32) -> bool {
        self.0.get(segment as usize / 32).is_some_and(|word| word >> (segment % 32) & 1 == 1)
    }

    fn add(&mut self, segment: u32) {
        if let Some(word) = self.0.get_mut(segment as usize / 32) {
            *word |= 1 << (segment % 32);
        }
    }
}

/// The RAM that a run needs, all of it at multiples of 16 bytes; see [`Aligned`](shiftformer::Aligned).
#[derive(Debug)]
pub struct Memory<'a> {
    /// Two buffers, each for any segment: [`Header::segment_bytes`].
    pub buffers: [&'a mut [u8]; 2],
    /// The arena, [`Header::arena_bytes`].
    pub arena: &'a mut [u8],
}

/// Why a model in external flash does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The flash itself.
    Flash(E),
    /// There is something else than what `shiftformer split` writes.
    NoImage,
    /// The layout is not that of this version.
    Layout(u32),
    /// The header, the table or a reference run is damaged.
    Damaged,
    /// A buffer is too small.
    Buffer {
        /// Bytes of the largest segment.
        needed: u32,
        /// Bytes given.
        given: usize,
    },
    /// A segment is not what the table says: damaged, or part of another image.
    Segment {
        /// Its number.
        segment: u32,
    },
    /// A segment cannot be opened.
    Model {
        /// Its number.
        segment: u32,
        /// What is wrong with it.
        fault: ModelError,
    },
    /// A segment takes something else than what the one before has left.
    Seam {
        /// Its number.
        segment: u32,
    },
    /// The arena is too small or misaligned.
    Arena(ArenaError),
    /// The data is out of range.
    Run(RunFault),
    /// There is no reference run of this number, or not with as many inputs and outputs.
    NoReference,
}

impl<E: fmt::Debug> fmt::Display for StreamError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "the flash cannot be read: {error:?}"),
            Self::NoImage => f.write_str("there is no image in the flash; `shiftformer split` writes one"),
            Self::Layout(layout) => {
                write!(f, "the image has layout {layout}; split the model with the version of this firmware")
            }
            Self::Damaged => f.write_str("the image is damaged; write it to the flash again"),
            Self::Buffer { needed, given } => {
                write!(f, "each of the two buffers needs {needed} bytes, {given} given; or split the model smaller")
            }
            Self::Segment { segment } => {
                write!(f, "segment {segment} is not what the table says; write the whole image to the flash again")
            }
            Self::Model { segment, fault } => write!(f, "segment {segment}: {fault}"),
            Self::Seam { segment } => {
                write!(f, "segment {segment} does not follow the one before; split the model again")
            }
            Self::Arena(fault) => write!(f, "{fault}"),
            Self::Run(fault) => write!(f, "{fault}"),
            Self::NoReference => f.write_str("there is no such reference run"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for StreamError<E> {}

impl<F: ReadNorFlash> Streamed<F> {
    /// The image at byte `start` of `flash`.
    ///
    /// # Errors
    /// [`StreamError`] when there is none, or its header is damaged.
    pub async fn open(mut flash: F, start: u32) -> Result<Self, StreamError<F::Error>> {
        let mut bytes = [0; HEADER_BYTES];
        flash.read(start, &mut bytes).await.map_err(StreamError::Flash)?;
        let (header, header_crc) = Header::decode(&bytes).map_err(|fault| match fault {
            HeaderFault::NoImage => StreamError::NoImage,
            HeaderFault::Layout(layout) => StreamError::Layout(layout),
            HeaderFault::Damaged => StreamError::Damaged,
        })?;
        Ok(Self { flash, start, header, header_crc, proven: Bits::default() })
    }

    /// What it needs, and how many segments it has.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The flash, for what else is in it.
    pub fn flash_mut(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Gives the flash back.
    pub fn release(self) -> F {
        self.flash
    }

    /// Runs the model with the operators of `table`, which has those of all segments (`Operators::TABLE` of the module that
    /// `shiftformer codegen` makes of the whole model, or [`OpTable::ALL`](ops::OpTable::ALL)). `write` fills every input, `read`
    /// takes every output, each by its number in the model.
    ///
    /// The first run proves every segment; a later one compares its checksum with that of the segment that was proven.
    ///
    /// Yields after every bounded step, so that other tasks of the executor run, and the read goes on.
    ///
    /// # Errors
    /// [`StreamError`]; what is in the arena then means nothing.
    pub async fn run<B: Kernels>(
        &mut self,
        memory: Memory<'_>,
        table: &'static [ops::Entry<B>],
        mut write: impl FnMut(usize, &mut [u8]),
        mut read: impl FnMut(usize, &[u8]),
    ) -> Result<(), StreamError<F::Error>> {
        let Memory { buffers: [mut current, mut next], arena } = memory;
        let last = self.header.segments.saturating_sub(1);
        let mut entry = self.load(0, current).await?;
        let mut left = None;
        for segment in 0..=last {
            let file = current.get(..entry.bytes as usize).ok_or(StreamError::Damaged)?;
            let (first, last, is_proven) = (segment == 0, segment == last, self.proven.has(segment));
            let task = Task { file, checksum: entry.checksum, is_proven, first, last, left };
            let work = run_segment(task, table, arena, &mut write, &mut read);
            let (done, ahead) = if last {
                (work.await, Ok(entry))
            } else {
                join(work, self.load(segment.saturating_add(1), next)).await
            };
            left = Some(done.map_err(|fault| fault.at(segment))?);
            self.proven.add(segment);
            entry = ahead?;
            core::mem::swap(&mut current, &mut next);
        }
        Ok(())
    }

    /// Reads a segment.
    async fn load(&mut self, segment: u32, buffer: &mut [u8]) -> Result<Entry, StreamError<F::Error>> {
        let place = |offset: u32| self.start.checked_add(offset).ok_or(StreamError::Damaged);
        let entry_at = segment.checked_mul(ENTRY_BYTES as u32).and_then(|at| at.checked_add(HEADER_BYTES as u32));
        let entry_at = place(entry_at.ok_or(StreamError::Damaged)?)?;
        let mut bytes = [0; ENTRY_BYTES];
        self.flash.read(entry_at, &mut bytes).await.map_err(StreamError::Flash)?;
        let entry = Entry::decode(&bytes, self.header_crc, segment).ok_or(StreamError::Damaged)?;
        let (at, given) = (self.start.checked_add(entry.offset).ok_or(StreamError::Damaged)?, buffer.len());
        let buffer = buffer
            .get_mut(..entry.bytes as usize)
            .ok_or(StreamError::Buffer { needed: self.header.segment_bytes.max(entry.bytes), given })?;
        self.flash.read(at, buffer).await.map_err(StreamError::Flash)?;
        Ok(entry)
    }

    /// Reads a reference run, which the host has made: the inputs one after the other, and the digest
    /// ([`digest`](shiftformer::arith::digest::digest)) of every output.
    ///
    /// # Errors
    /// [`StreamError::NoReference`] when there is none with this number, or the slices have another length.
    pub async fn reference(
        &mut self,
        index: u32,
        inputs: &mut [u8],
        digests: &mut [u64],
    ) -> Result<(), StreamError<F::Error>> {
        let Header { references, input_bytes, outputs, references_at, .. } = self.header;
        if index >= references || inputs.len() != input_bytes as usize || digests.len() != outputs as usize {
            return Err(StreamError::NoReference);
        }
        let first = self.header.reference_bytes().and_then(|bytes| bytes.checked_mul(index));
        let first = first.and_then(|first| first.checked_add(references_at)?.checked_add(self.start));
        let mut at = first.ok_or(StreamError::Damaged)?;
        let mut crc = CRC.digest();
        self.flash.read(at, inputs).await.map_err(StreamError::Flash)?;
        crc.update(inputs);
        at = at.checked_add(input_bytes).ok_or(StreamError::Damaged)?;
        for digest in digests {
            let mut bytes = [0; DIGEST_BYTES];
            self.flash.read(at, &mut bytes).await.map_err(StreamError::Flash)?;
            crc.update(&bytes);
            *digest = u64::from_le_bytes(bytes);
            at = at.checked_add(DIGEST_BYTES as u32).ok_or(StreamError::Damaged)?;
        }
        let mut stored = [0; CRC_BYTES];
        self.flash.read(at, &mut stored).await.map_err(StreamError::Flash)?;
        if crc.finalize() == u32::from_le_bytes(stored) { Ok(()) } else { Err(StreamError::Damaged) }
    }
}

/// What is known of a segment that is to run.
struct Task<'a> {
    file: &'a [u8],
    /// Its CRC-32, by the table.
    checksum: u32,
    is_proven: bool,
    /// The first of the model, the last.
    first: bool,
    last: bool,
    /// The [`seam`] that the one before has left.
    left: Option<u32>,
}

/// What stops a segment.
enum Fault {
    Segment,
    Model(ModelError),
    Seam,
    Arena(ArenaError),
    Run(RunFault),
}

impl Fault {
    fn at<E>(self, segment: u32) -> StreamError<E> {
        match self {
            Self::Segment => StreamError::Segment { segment },
            Self::Model(fault) => StreamError::Model { segment, fault },
            Self::Seam => StreamError::Seam { segment },
            Self::Arena(fault) => StreamError::Arena(fault),
            Self::Run(fault) => StreamError::Run(fault),
        }
    }
}

/// Runs one segment; returns the [`seam`] that it leaves.
async fn run_segment<B: Kernels>(
    task: Task<'_>,
    table: &'static [ops::Entry<B>],
    arena: &mut [u8],
    write: &mut impl FnMut(usize, &mut [u8]),
    read: &mut impl FnMut(usize, &[u8]),
) -> Result<u32, Fault> {
    let proven = Proven::new(task.file, task.checksum).ok_or(Fault::Segment)?;
    let opened = if task.is_proven { Model::open_proven(&proven, table) } else { Model::open_with(task.file, table) };
    let model = opened.map_err(Fault::Model)?;
    if task.left.is_some_and(|left| left != seam((0..model.n_inputs()).filter_map(|input| model.input(input)))) {
        return Err(Fault::Seam);
    }
    let mut session = Session::new(&model, arena).map_err(Fault::Arena)?;
    if task.first {
        for input in 0..model.n_inputs() {
            if let Some(bytes) = session.input_mut(input) {
                write(input, bytes);
            }
        }
    }
    while inference(&mut session).map_err(Fault::Run)? != Progress::Done {
        yield_now().await;
    }
    if task.last {
        for output in 0..model.n_outputs() {
            if let Some(bytes) = session.output(output) {
                read(output, bytes);
            }
        }
    }
    Ok(seam((0..model.n_outputs()).filter_map(|output| model.output(output))))
}

/// A step of the inference: the audit of firmware starts here. An async function cannot be without the panic of one that is
/// polled after its end.
#[inline(never)]
fn inference<B: Kernels>(session: &mut Session<'_, '_, B>) -> Result<Progress, RunFault> {
    session.step()
}

/// A checksum of the places and types of what passes from a segment to the next.
fn seam(tensors: impl Iterator<Item = TensorRecord>) -> u32 {
    let mut digest = CRC.digest();
    for tensor in tensors {
        for word in [tensor.offset, tensor.bytes() as u32, u32::from(tensor.dtype as u8), tensor.zero_point as u32] {
            digest.update(&word.to_le_bytes());
        }
    }
    digest.finalize()
}
