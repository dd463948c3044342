//! The inference with the operators of a vision transformer.
#![no_std]
#![no_main]

use shiftformer::kernels::Native;
use shiftformer::ops::{Entry, OpKind, add, attention, conv2d, copy, layer_norm, linear, lut, reduce_mean, requant};

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

#[board::entry]
fn main() -> ! {
    inference::main(&TABLE)
}
