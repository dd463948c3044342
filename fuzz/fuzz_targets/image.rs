//! Any bytes in an external flash into the model that is read from it.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shiftformer_fuzz::run_image(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    shiftformer_fuzz::each_file(shiftformer_fuzz::run_image)
}
