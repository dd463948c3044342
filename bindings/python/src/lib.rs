//! The native half of the Python package `shiftformer`.
//!
//! Python checks what it is given and hands over contiguous little-endian arrays; this half calls what the command calls.
//! Long work runs on a pool of threads with the interpreter released (`work.rs`), faults become exceptions (`errors.rs`).

mod arrays;
mod convert;
mod errors;
mod model;
mod work;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::convert::{Converter, FloatModel};
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::{backends, convert_options, figures, generate_options, merge};
}

/// Names of the options of `shiftformer convert`.
#[pyfunction]
fn convert_options() -> Vec<String> {
    shiftformer_cli::option_names::<shiftformer_cli::ConvertArgs>()
}

/// Names of the options of `shiftformer generate`.
#[pyfunction]
fn generate_options() -> Vec<String> {
    shiftformer_cli::option_names::<shiftformer_cli::GenerateArgs>()
}

/// Names of the backends.
#[pyfunction]
fn backends() -> Vec<String> {
    shiftformer_lab::backend::names().into_iter().map(|name| name.to_string()).collect()
}

/// The figures of an evaluation, from its sums; both as JSON.
#[pyfunction]
fn figures(sums: &str) -> PyResult<String> {
    work::guarded(|| model::json(&model::score(sums)?.figures()))
}

/// The sums of several parts of one evaluation, joined exactly; all as JSON.
#[pyfunction]
fn merge(parts: Vec<String>) -> PyResult<String> {
    work::guarded(|| {
        let mut whole = shiftformer_lab::eval::metrics::Score::default();
        for part in &parts {
            whole.merge(&model::score(part)?);
        }
        model::json(&whole)
    })
}
