//! `shiftformer fit`.

use super::failure::{Failure, Verdict};
use super::inspect::{open, read_model};
use super::{data, output};
use serde::Serialize;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::backend;
use shiftformer_lab::fit::boards::{BOARDS, Core};
use shiftformer_lab::fit::{BASIS, Count, Demand, Fit, demand, fit};
use shiftformer_lab::text;
use shiftformer_link::Machine;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Only this board, by key or name. Exits with 1 if the model does not fit it.
    #[arg(long)]
    board: Option<String>,
    /// Count this model's instructions in the emulator instead of estimating them from other models.
    #[arg(long)]
    count: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct FitOutput<'a> {
    flash_bytes: usize,
    ram_bytes: usize,
    basis: &'static str,
    boards: &'a [Fit],
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let file = read_model(&args.file)?;
    let model = open(&file, &args.file)?;
    let mut demand = demand(&model);
    let boards = fit(&demand, args.board.as_deref());
    if boards.is_empty() {
        return Err(unknown_board(args.board.as_deref().unwrap_or_default()));
    }
    if args.count {
        count(&file, &boards, &mut demand)?;
    }
    let boards = fit(&demand, args.board.as_deref());
    if args.json {
        let (flash_bytes, ram_bytes) = (demand.flash_bytes, demand.ram_bytes);
        output::json(&FitOutput { flash_bytes, ram_bytes, basis: BASIS, boards: &boards })?;
    } else {
        let size = |n: usize| text::bytes(n as f64);
        output::print(&format!(
            "needs {} flash (runtime included) and {} RAM\n\n",
            size(demand.flash_bytes),
            size(demand.ram_bytes)
        ));
        output::print(&table(&boards));
        output::print(&format!("\n{BASIS}\n"));
    }
    let fits_all = boards.iter().all(|b| b.fits);
    Ok(if args.board.is_some() && !fits_all { Verdict::Failed } else { Verdict::Passed })
}

/// That there is no such board, and which there are.
pub fn unknown_board(name: &str) -> Failure {
    let known: Vec<&str> = BOARDS.iter().map(|b| b.key).collect();
    Failure::Usage(format!("unknown board `{name}`; known: {}", known.join(", ")))
}

/// The cores of `boards`, each once.
pub fn cores(boards: &[Fit]) -> Vec<Core> {
    let mut cores: Vec<Core> = Vec::new();
    for board in boards {
        if !cores.contains(&board.board.core) {
            cores.push(board.board.core);
        }
    }
    cores
}

/// Replaces the estimates for the cores of `boards` by counts.
fn count(file: &ModelFile, boards: &[Fit], demand: &mut Demand) -> Result<(), Failure> {
    let sample = data::stand_in(file)?;
    for core in cores(boards) {
        // A core that no machine counts keeps its estimate, which the table marks as one.
        let Some(machine) = Machine::counting(core) else { continue };
        let name = format!("qemu:{}", machine.name);
        output::status(&format!("counting on {name}"));
        if let Some(counts) = backend::open(&name, file)?.counts(&sample)? {
            demand.instructions.insert(core, Count { instructions: counts.total as f64, counted: true });
        }
    }
    Ok(())
}

/// The board table.
pub fn table(boards: &[Fit]) -> String {
    let mut table = text::table(&["board", "core", "MHz>", "flash>", "RAM>", "", "instructions>", "latency>"]);
    for line in boards {
        let board = &line.board;
        table.add_row([
            board.name.to_owned(),
            board.core.name().to_owned(),
            board.clock_mhz.to_string(),
            text::bytes(f64::from(board.flash_kib) * 1024.0),
            text::bytes(f64::from(board.ram_kib) * 1024.0),
            line.verdict(),
            format!("{}{}", if line.counted { "" } else { "~" }, text::count(line.instructions)),
            format!("~{}", text::milliseconds(line.latency_ms)),
        ]);
    }
    format!("{table}\n")
}
