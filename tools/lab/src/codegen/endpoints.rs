//! What every generated file says of a model and its endpoints.

use super::names::unique;
use crate::summary::{EndpointSummary, Summary};

/// An endpoint with the identifiers it gets in generated code.
pub(super) struct Named<'a> {
    pub endpoint: &'a EndpointSummary,
    /// `snake_case`.
    pub lower: String,
    /// `SCREAMING_SNAKE_CASE`.
    pub upper: String,
    pub elements: usize,
}

pub(super) fn named<'a>(endpoints: &'a [EndpointSummary], taken: &mut Vec<String>) -> Vec<Named<'a>> {
    let name = |endpoint: &'a EndpointSummary| {
        let lower = unique(&endpoint.name, taken);
        let upper = lower.to_uppercase();
        Named { endpoint, lower, upper, elements: endpoint.shape.iter().product() }
    };
    endpoints.iter().map(name).collect()
}

/// What the integers of an endpoint mean, in words.
pub(super) fn meaning(endpoint: &EndpointSummary) -> String {
    match endpoint.normalization {
        Some((mean, std)) => format!("raw pixels `p` in 0..=255, standing for `(p / 255 - {mean}) / {std}`"),
        None if endpoint.dtype == "i32" && endpoint.scale == 1.0 => "indices".to_owned(),
        None => format!("`real = {:e} * (q - {})`", endpoint.scale, endpoint.zero),
    }
}

/// First lines of every generated file.
pub(super) fn preamble(summary: &Summary, file: &str) -> Vec<String> {
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
