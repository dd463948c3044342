//! Any bytes into the decoder of models on their way to a device.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shiftformer_fuzz::unpack(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    shiftformer_fuzz::each_file(shiftformer_fuzz::unpack)
}
