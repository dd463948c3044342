//! What an encoder costs as it grows: instructions on an emulated Cortex-M4 and bytes of arena against tokens, width and
//! depth. `cargo xtask growth` runs it and keeps what it writes in `docs`.
//!
//!     growth FOLDER          writes FOLDER/growth.md and FOLDER/growth.svg

mod model;
mod picture;

use model::{Size, encoder, samples};
use shiftformer::kernels::Portable;
use shiftformer_convert::convert::{ConvertOptions, Converted, Switch, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::Graph;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;
use shiftformer_lab::backend::{self, Sample};
use shiftformer_lab::summary::summarize;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where instructions are counted: 4 MB of RAM, 16 MB for the model.
const BACKEND: &str = "qemu:mps2-an386";
/// Samples for calibration.
const SAMPLES: usize = 2;
/// The size around which one dimension varies.
const BASE: Size = Size { seq_len: 64, width: 64, depth: 2 };
/// Tokens; sizes between multiples of the kernels' blocks among them.
const SEQ_LENS: [usize; 16] = [16, 24, 32, 48, 63, 65, 96, 128, 160, 197, 256, 320, 384, 448, 500, 512];
const WIDTHS: [usize; 9] = [16, 32, 48, 64, 96, 128, 160, 192, 256];
const DEPTHS: [usize; 6] = [1, 2, 4, 6, 8, 12];

/// What one encoder costs.
#[derive(Clone, Copy)]
pub struct Cost {
    /// The dimension that varies.
    pub x: usize,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Instructions of one inference.
    pub instructions: u64,
    /// Of them, those of attention.
    pub attention: u64,
    /// Bytes of arena.
    pub arena: usize,
    /// Bytes of arena with the score matrix in memory.
    pub unfused: usize,
}

/// Encoders of which one dimension varies.
pub struct Sweep {
    /// The dimension.
    pub title: &'static str,
    /// Ascending.
    pub costs: Vec<Cost>,
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: growth FOLDER");
        return ExitCode::from(2);
    };
    match run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let sweep = |title, values: &[usize], size: fn(usize) -> Size| -> Result<Sweep, Box<dyn Error>> {
        let costs = values.iter().map(|&x| cost(title, x, size(x))).collect::<Result<_, _>>()?;
        Ok(Sweep { title, costs })
    };
    let sweeps = [
        sweep("tokens", &SEQ_LENS, |seq_len| Size { seq_len, ..BASE })?,
        sweep("width", &WIDTHS, |width| Size { width, ..BASE })?,
        sweep("depth", &DEPTHS, |depth| Size { depth, ..BASE })?,
    ];
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("growth.svg"), picture::draw(&sweeps))?;
    std::fs::write(folder.join("growth.md"), text(&sweeps))?;
    Ok(())
}

/// Converts and counts one encoder.
fn cost(title: &str, x: usize, size: Size) -> Result<Cost, Box<dyn Error>> {
    let graph = fuse(encoder(size));
    let samples: Vec<Vec<Values>> = samples(size, SAMPLES).into_iter().map(|s| vec![Values::Float(s)]).collect();
    let file = ModelFile::from_bytes(&converted(&graph, &samples, false)?.file)?;
    let summary = summarize(&file.open::<Portable>()?, file.annotations());
    let sample: Sample = vec![file.encode(0, &samples[0][0])?];
    let counts = backend::open(BACKEND, &file)?.counts(&sample)?.ok_or("the emulator does not count")?;
    let of_attention = summary.ops.iter().zip(&counts.ops).filter(|(op, _)| op.kind == "attention");
    let cost = Cost {
        x,
        macs: summary.macs,
        instructions: counts.total,
        attention: of_attention.map(|(_, &instructions)| instructions).sum(),
        arena: summary.arena_bytes,
        unfused: converted(&graph, &samples, true)?.plan.arena_bytes,
    };
    eprintln!("{title} {x}: {} instructions, {} bytes", cost.instructions, cost.arena);
    Ok(cost)
}

/// No search: what it chooses between costs the same.
fn converted(graph: &Graph, samples: &[Vec<Values>], unfused_attention: bool) -> Result<Converted, Box<dyn Error>> {
    let options = ConvertOptions {
        range: RangeMethod::Minmax,
        equalize: Switch::Off,
        wide_exp: Switch::Off,
        unfused_attention,
        ..ConvertOptions::default()
    };
    Ok(convert(graph, samples, &options, &mut |_| {})?)
}

fn text(sweeps: &[Sweep]) -> String {
    let Size { seq_len, width, depth } = BASE;
    let mut text = format!(
        "# The cost of growth\n\nWritten by `cargo xtask growth`: encoders of {seq_len} tokens, width {width} (heads of \
         16, MLP of twice the width) and {depth} blocks\nwith random weights, of which one dimension varies; executed \
         instructions of a Cortex-M4 in QEMU, bytes of arena. \"Unfused\"\nis the arena that the score matrix of attention \
         in memory would need.\n\nMemory is linear in tokens and width and does not depend on depth; instructions are \
         linear but for the two products of\nattention, which are quadratic in tokens. Kernels take rows in blocks of \
         five: sizes between make small steps.\n\n![instructions and arena against tokens, width and \
         depth](growth.svg)\n"
    );
    for Sweep { title, costs } in sweeps {
        let _ = write!(
            text,
            "\n| {title} | MACs | instructions | per MAC | of them attention | arena, bytes | arena / {title} | unfused |\n\
             |---|---|---|---|---|---|---|---|\n"
        );
        for c in costs {
            let _ = writeln!(
                text,
                "| {} | {:.2} M | {:.2} M | {:.2} | {:.2} M | {} | {:.0} | {} |",
                c.x,
                c.macs as f64 / 1e6,
                c.instructions as f64 / 1e6,
                c.instructions as f64 / c.macs as f64,
                c.attention as f64 / 1e6,
                c.arena,
                c.arena as f64 / c.x as f64,
                c.unfused,
            );
        }
    }
    text
}
