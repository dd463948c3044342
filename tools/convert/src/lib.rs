//! From an ONNX file to a `.sfm` file: import, fuse, calibrate, quantize, lower, plan, pack.

pub mod backend;
pub mod calibrate;
pub mod convert;
pub mod data;
pub mod decoder;
pub mod files;
pub mod fuse;
pub mod graph;
pub mod import;
pub mod lower;
pub mod model_file;
pub mod npz;
pub mod pack;
mod parallel;
pub mod program;
pub mod quantize;
pub mod sequences;
pub mod tokenizer;
