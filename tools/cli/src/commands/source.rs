//! Float models: from an ONNX file to the graph that is converted and compared with.

use super::failure::Failure;
use shiftformer_convert::decoder::derive;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::Graph;
use shiftformer_convert::import::decoder::import_decoder;
use shiftformer_convert::import::{ImportError, ImportOptions, import};
use std::path::Path;

/// Sizes of symbolic dimensions from `NAME=VALUE` arguments.
pub fn import_options(dims: &[String]) -> Result<ImportOptions, Failure> {
    let mut options = ImportOptions::default();
    for dim in dims {
        let parsed =
            dim.split_once('=').and_then(|(name, value)| Some((name.trim(), value.trim().parse::<usize>().ok()?)));
        let Some((name, value)) = parsed.filter(|(name, value)| !name.is_empty() && *value > 0) else {
            return Err(Failure::Usage(format!(
                "--dim {dim} is not NAME=VALUE with a positive value; write e.g. --dim seq=128"
            )));
        };
        options.dims.insert(name.to_owned(), value);
    }
    Ok(options)
}

/// Imports a decoder as the function of a whole sequence, and finds what its single rows need: the graph has `context`
/// positions, or more where the file fixes them. A token sees at most the last `window`.
pub fn decoder_graph(path: &Path, context: usize, window: Option<usize>) -> Result<Graph, Failure> {
    let sequence = import_decoder(path, context).map_err(|source| failed(path, source))?;
    let graph = derive(&fuse(sequence.graph), context, window);
    graph.map_err(|source| Failure::Decoder { path: path.to_owned(), source })
}

fn failed(path: &Path, error: ImportError) -> Failure {
    match error {
        ImportError::Read { path, source } => Failure::Read { path, source },
        source => Failure::Import { path: path.to_owned(), source },
    }
}

/// Imports a model.
pub fn imported(path: &Path, dims: &[String]) -> Result<Graph, Failure> {
    let options = import_options(dims)?;
    import(path, &options).map_err(|source| failed(path, source))
}

/// Imports and fuses a model.
pub fn float_graph(path: &Path, dims: &[String]) -> Result<Graph, Failure> {
    Ok(fuse(imported(path, dims)?))
}
