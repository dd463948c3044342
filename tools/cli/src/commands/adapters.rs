//! `shiftformer adapters`.

use super::failure::{Failure, Verdict};
use super::output;
use serde::Serialize;
#[cfg(feature = "gpu")]
use shiftformer_gpu::AdapterSummary;
use shiftformer_lab::text;

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct AdaptersOutput {
    adapters: Vec<Adapter>,
}

#[derive(Serialize)]
struct Adapter {
    index: usize,
    name: String,
    backend: &'static str,
    kind: &'static str,
    driver: String,
    int64: bool,
    dot4: bool,
    /// Dense layers and attention run on cooperative matrices of signed bytes.
    matrices: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_matrices_because: Option<&'static str>,
    subgroup_sizes: Option<(u32, u32)>,
    max_binding_bytes: u64,
    max_workgroup: u32,
    workgroup_bytes: u32,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let adapters = adapters()?;
    if adapters.is_empty() {
        return Err(Failure::Usage(
            "no Vulkan, Metal or DirectX 12 adapter found; install a driver, or Mesa's software Vulkan (mesa-vulkan-drivers)".to_owned(),
        ));
    }
    if args.json {
        output::json(&AdaptersOutput { adapters })?;
        return Ok(Verdict::Passed);
    }
    let mut table =
        text::table(&["#>", "name", "kind", "API", "driver", "i64", "dot4", "matrices", "subgroups", "binding>"]);
    for a in adapters {
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        let subgroups = a.subgroup_sizes.map_or_else(|| "no".to_owned(), |(low, high)| format!("{low}..{high}"));
        let binding = text::bytes(a.max_binding_bytes as f64);
        table.add_row([
            a.index.to_string(),
            a.name,
            a.kind.to_owned(),
            a.backend.to_owned(),
            a.driver,
            yes(a.int64),
            yes(a.dot4),
            a.no_matrices_because.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
            subgroups,
            binding,
        ]);
    }
    output::print(&format!("{table}\n"));
    Ok(Verdict::Passed)
}

#[cfg(not(feature = "gpu"))]
fn adapters() -> Result<Vec<Adapter>, Failure> {
    Err(Failure::Usage("this program was built without the feature `gpu`".to_owned()))
}

#[cfg(feature = "gpu")]
fn adapters() -> Result<Vec<Adapter>, Failure> {
    Ok(shiftformer_gpu::adapters().into_iter().enumerate().map(adapter).collect())
}

#[cfg(feature = "gpu")]
fn adapter((index, summary): (usize, AdapterSummary)) -> Adapter {
    Adapter {
        index,
        name: summary.name,
        backend: summary.backend,
        kind: summary.kind,
        driver: summary.driver,
        int64: summary.int64,
        dot4: summary.dot4,
        matrices: summary.matrices.is_ok(),
        no_matrices_because: summary.matrices.err(),
        subgroup_sizes: summary.subgroups,
        max_binding_bytes: summary.max_binding_bytes,
        max_workgroup: summary.max_workgroup,
        workgroup_bytes: summary.workgroup_bytes,
    }
}
