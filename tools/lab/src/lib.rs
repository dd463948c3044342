//! What is done with a finished model: run it on every backend, compare, evaluate, report, fit, generate code.

pub mod backend;
pub mod clock;
pub mod codegen;
pub mod cross_check;
pub mod eval;
pub mod fit;
pub mod media;
pub mod parity;
pub mod quality;
pub mod report;
pub mod sequence;
pub mod summary;
pub mod text;
