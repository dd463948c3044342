//! Reads handwritten digits by a model that stays in an external flash.
//!
//! The flash holds what `shiftformer split` made of the model. Its largest part and the arena are all that is in RAM, and of the
//! model itself nothing is in the firmware but the list of its operators.
#![no_std]

use defmt::Display2Format;
use embassy_futures::block_on;
use embedded_storage_async::nor_flash::{ErrorType, ReadNorFlash};
use shiftformer::arith::digest::digest;
use shiftformer::kernels::Native;
use shiftformer_stream::{Memory, StreamError, Streamed};
use support::external::External;
use support::memory::take_arena;

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// Why the demo stops.
enum Fault<E> {
    Stream(StreamError<E>),
    /// The image is that of another model.
    OtherModel,
    /// The buffers and the arena are larger than the memory.
    NoMemory,
    /// The outputs are not those of the host.
    Outputs,
}

impl<E> From<StreamError<E>> for Fault<E> {
    fn from(error: StreamError<E>) -> Self {
        Self::Stream(error)
    }
}

/// Reads the image of every reference run; ends the program.
pub fn main<B: External>() -> ! {
    B::start();
    match demo::<B>() {
        Ok(()) => B::exit(true),
        Err(Fault::Stream(error)) => defmt::error!("{}", Display2Format(&error)),
        Err(Fault::OtherModel) => defmt::error!("the flash holds another model than digits"),
        Err(Fault::NoMemory) => defmt::error!("the buffers and the arena are larger than the memory"),
        Err(Fault::Outputs) => defmt::error!("the outputs are not those of the host"),
    }
    B::exit(false)
}

fn demo<B: External>() -> Result<(), Fault<<B::Flash as ErrorType>::Error>> {
    let mut streamed = block_on(Streamed::open(B::flash(), 0))?;
    let header = *streamed.header();
    let ram = take_arena::<B>().ok_or(Fault::NoMemory)?;
    let (mut image, mut expected) = ([0; model::IMAGE_LEN], [0; 1]);
    if header.references == 0 {
        return Err(Fault::OtherModel);
    }
    for index in 0..header.references {
        match block_on(streamed.reference(index, &mut image, &mut expected)) {
            Err(StreamError::NoReference) => return Err(Fault::OtherModel),
            read => read?,
        }
        let memory = divided(ram, header.segment_bytes, header.arena_bytes).ok_or(Fault::NoMemory)?;
        let start = B::ticks();
        let found = read(&mut streamed, memory, &image)?;
        let ticks = B::ticks().wrapping_sub(start);
        if found != expected[0] {
            return Err(Fault::Outputs);
        }
        let milliseconds = ticks / (B::COUNTER_HZ / 1000).max(1);
        defmt::info!("image {=u32}: outputs as on the host, {=u32} ms", index, milliseconds);
    }
    defmt::info!(
        "{=u32} bytes of model in {=u32} segments, two buffers of {=u32} bytes, {=u32} of arena",
        header.bytes,
        header.segments,
        header.segment_bytes,
        header.arena_bytes
    );
    Ok(())
}

/// Two buffers and the arena, each at a multiple of 16 bytes.
fn divided(ram: &mut [u8], segment_bytes: u32, arena_bytes: u32) -> Option<Memory<'_>> {
    let buffer = (segment_bytes as usize).checked_next_multiple_of(16)?;
    let (first, rest) = ram.split_at_mut_checked(buffer)?;
    let (second, rest) = rest.split_at_mut_checked(buffer)?;
    let (arena, _) = rest.split_at_mut_checked(arena_bytes as usize)?;
    Some(Memory { buffers: [first, second], arena })
}

/// The digest of the logits of `image`.
fn read<F: ReadNorFlash>(
    streamed: &mut Streamed<F>,
    memory: Memory<'_>,
    image: &[u8; model::IMAGE_LEN],
) -> Result<u64, StreamError<F::Error>> {
    let mut found = 0;
    let write = |_: usize, input: &mut [u8]| input.iter_mut().zip(image).for_each(|(to, &from)| *to = from);
    let read = |_: usize, logits: &[u8]| found = digest(logits);
    block_on(streamed.run::<Native>(memory, model::Operators::TABLE, write, read))?;
    Ok(found)
}
