//! Converter, evaluator and reports for Shiftformer models.

pub mod graph;
pub mod pack;
pub mod plan;
pub mod program;
