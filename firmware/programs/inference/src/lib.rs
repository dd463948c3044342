//! Opens and runs the model the host put into memory, and does nothing else.
//!
//! The programs differ in the operators they link. None may contain a floating-point instruction, an allocator, or the
//! panic machinery of `core`: `cargo xtask audit` looks at all that is linked.
#![no_std]

use shiftformer::kernels::Native;
use shiftformer::ops::{
    Entry, OpKind, OpTable, add, attention, conv2d, copy, layer_norm, linear, lut, reduce_mean, requant,
};
use shiftformer::{Model, Session};
use shiftformer_link::Job;
use support::{Emulated, memory};

/// The operators of a vision transformer.
static TABLE: [Entry<Native>; 9] = [
    Entry::of::<linear::Linear>(OpKind::Linear),
    Entry::of::<conv2d::Conv2d>(OpKind::Conv2d),
    Entry::of::<attention::Attention>(OpKind::Attention),
    Entry::of::<layer_norm::LayerNorm>(OpKind::LayerNorm),
    Entry::of::<add::Add>(OpKind::Add),
    Entry::of::<lut::Lut>(OpKind::Lut),
    Entry::of::<requant::Requant>(OpKind::Requant),
    Entry::of::<copy::Copy>(OpKind::Copy),
    Entry::of::<reduce_mean::ReduceMean>(OpKind::ReduceMean),
];

/// The inference with every operator.
pub fn all<B: Emulated>() -> ! {
    main::<B>(OpTable::<Native>::ALL)
}

/// The inference with the operators of a vision transformer.
pub fn vit<B: Emulated>() -> ! {
    main::<B>(&TABLE)
}

/// Runs the model once over whatever the arena holds; ends the emulation with the outcome.
fn main<B: Emulated>(table: &'static [Entry<Native>]) -> ! {
    B::exit(open::<B>(table).is_some_and(|mut session| inference(&mut session)))
}

/// The checks, once.
#[inline(never)]
fn open<B: Emulated>(table: &'static [Entry<Native>]) -> Option<Session<'static, 'static, Native>> {
    let bytes = memory::job::<B>();
    let job = Job::decode(bytes)?;
    let file = bytes.get(Job::BYTES..)?.get(..job.model_bytes as usize)?;
    let model = Model::open_with(file, table).ok()?;
    Session::new(&model, memory::take_arena::<B>()?).ok()
}

/// The inference: the audit and the size table start here.
#[unsafe(no_mangle)]
#[inline(never)]
fn inference(session: &mut Session<'static, 'static, Native>) -> bool {
    planted();
    session.run().is_ok()
}

/// Nothing, unless a test of the audit asks for a fault.
#[inline(always)]
fn planted() {
    #[cfg(any(feature = "plant-float", feature = "plant-soft-float"))]
    core::hint::black_box(core::hint::black_box(1.5f32) * 0.7);
    #[cfg(feature = "plant-panic")]
    core::hint::black_box(b"abc"[core::hint::black_box(1)]);
}
