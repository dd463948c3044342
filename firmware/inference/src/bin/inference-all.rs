//! The inference with every operator.
#![no_std]
#![no_main]

use shiftformer::kernels::Native;
use shiftformer::ops::OpTable;

#[board::entry]
fn main() -> ! {
    inference::main(OpTable::<Native>::ALL)
}
