//! Converter, evaluator and reports for Shiftformer models.

pub mod backend;
pub mod float_exec;
pub mod graph;
pub mod model_file;
pub mod pack;
pub mod plan;
pub mod program;
