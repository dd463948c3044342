//! Converter, evaluator and reports for Shiftformer models.

pub mod backend;
pub mod calibrate;
pub mod clock;
pub mod codegen;
pub mod convert;
pub mod data;
pub mod eval;
pub mod fit;
pub mod float_exec;
pub mod fuse;
pub mod graph;
pub mod import;
pub mod ivit;
pub mod lower;
pub mod metrics;
pub mod model_file;
pub mod pack;
pub mod parity;
pub mod parts;
pub mod plan;
pub mod program;
pub mod quantize;
pub mod report;
pub mod summary;
pub mod text;
pub mod timeline;
