//! Whole models from ONNX to bytes, in one program: every program of its own links the whole converter and the GPU once more.

mod accuracy;
mod activations;
mod certificate;
mod fuse;
mod golden;
mod gpu_models;
mod hostile;
mod import;
mod mutants;
mod parity;
mod profiles;
mod right_or_refused;
mod row_blocks;
mod session;
mod state;
mod threads;
