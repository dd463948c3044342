//! The `shiftformer` command as users meet it: arguments in, exit code, stdout, stderr and files out.

mod bad_input;
mod codegen;
mod commands;
mod decoder;
mod evaluation;
mod harness;
mod language;
mod media;
mod parity;
