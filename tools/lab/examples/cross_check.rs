//! ONNX files as the importer and tract read them, one line each, without a conversion.
//!
//!     cargo run --release -p shiftformer-lab --example cross_check -- MODEL.onnx...
//!
//! A data set `MODEL.npz` beside a model gives the sample; without one it is drawn.

use shiftformer_convert::convert::real_inputs;
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Data, Graph};
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_lab::cross_check::with_tract;
use std::path::Path;
use std::time::Instant;

fn main() {
    for path in std::env::args_os().skip(1).map(std::path::PathBuf::from) {
        let start = Instant::now();
        let text = match import(&path, &ImportOptions::default()) {
            Err(error) => format!("not imported: {error}").replace('\n', " "),
            Ok(graph) => {
                let sample = first_sample(&path.with_extension("npz"), &graph);
                let drawn = if sample.is_some() { "" } else { " (drawn sample)" };
                let comparison = with_tract(&path, &graph, &fuse(graph.clone()), sample);
                let skipped = comparison.skipped.as_ref().map_or_else(String::new, |why| format!("; skipped: {why}"));
                let warnings = comparison.warnings().join("; ");
                format!("{} tensors{drawn}{skipped} {warnings}", comparison.tensors)
            }
        };
        println!("{} ({:.1} s): {text}", path.display(), start.elapsed().as_secs_f64());
    }
}

/// `None` where there is no data set that fits.
fn first_sample(path: &Path, graph: &Graph) -> Option<Vec<Data>> {
    let data = Dataset::open(path).ok()?;
    let arrays: Option<Vec<_>> = graph.inputs.iter().map(|&id| data.input(&graph.tensors[id].name)).collect();
    let values = arrays?.into_iter().map(|array| array.sample(0)).collect();
    real_inputs(graph, &[values], None).ok()?.pop()
}
