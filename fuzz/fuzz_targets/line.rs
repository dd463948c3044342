//! Any bytes at a serial line into the server of a device.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shiftformer_fuzz::serve_line(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    shiftformer_fuzz::each_file(shiftformer_fuzz::serve_line)
}
