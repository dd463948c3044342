//! Source code that goes with a model: constants, accessors and the table of the operators it uses.

mod c;
mod names;
mod rust;

pub use c::c_header;
pub use rust::rust_module;

use crate::summary::{EndpointSummary, Summary};

/// An endpoint with the identifiers it gets in generated code.
struct Named<'a> {
    endpoint: &'a EndpointSummary,
    /// `snake_case`.
    lower: String,
    /// `SCREAMING_SNAKE_CASE`.
    upper: String,
    elements: usize,
}

fn named<'a>(endpoints: &'a [EndpointSummary], taken: &mut Vec<String>) -> Vec<Named<'a>> {
    let name = |endpoint: &'a EndpointSummary| {
        let lower = names::unique(&endpoint.name, taken);
        let upper = lower.to_uppercase();
        Named { endpoint, lower, upper, elements: endpoint.shape.iter().product() }
    };
    endpoints.iter().map(name).collect()
}

/// What the integers of an endpoint mean, in words.
fn meaning(endpoint: &EndpointSummary) -> String {
    match endpoint.normalization {
        Some((mean, std)) => format!("raw pixels `p` in 0..=255, standing for `(p / 255 - {mean}) / {std}`"),
        None if endpoint.dtype == "i32" => "indices".to_owned(),
        None => format!("`real = {:e} * (q - {})`", endpoint.scale, endpoint.zero),
    }
}

/// First lines of every generated file.
fn preamble(summary: &Summary, file: &str) -> Vec<String> {
    vec![
        format!("Made by `shiftformer codegen {file}`; make it again when the model changes."),
        String::new(),
        format!(
            "Source `{}`, profile `{}`: {} parameters, {} multiplications, {} operators.",
            summary.source,
            summary.profile,
            summary.params,
            summary.macs,
            summary.ops.len()
        ),
    ]
}
