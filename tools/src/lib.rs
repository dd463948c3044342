//! Converter, evaluator and reports for Shiftformer models.

pub mod graph;
