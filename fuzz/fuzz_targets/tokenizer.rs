//! Any bytes into the reader of tokenizers.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shiftformer_fuzz::read_tokenizer(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    shiftformer_fuzz::each_file(shiftformer_fuzz::read_tokenizer)
}
