//! Any bytes into the reader of samples.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shiftformer_fuzz::read_samples(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    shiftformer_fuzz::each_file(shiftformer_fuzz::read_samples)
}
