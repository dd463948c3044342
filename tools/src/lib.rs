//! Converter, evaluator and reports for Shiftformer models.

pub mod backend;
pub mod calibrate;
pub mod convert;
pub mod float_exec;
pub mod graph;
pub mod lower;
pub mod model_file;
pub mod pack;
pub mod plan;
pub mod program;
pub mod quantize;
