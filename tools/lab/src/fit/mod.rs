//! Does a model fit a board, and how long will one inference take?

pub mod boards;
pub mod cost;

use boards::{BOARDS, Board, Core, cycles_per_instruction};
use serde::Serialize;
use shiftformer::Model;
use shiftformer::format::SectionKind;
use shiftformer::kernels::Kernels;
use shiftformer::ops::Op;
use std::collections::HashMap;

/// Flash that program and runtime take besides the model: the budget that `cargo xtask size` holds the digits demo to.
pub const RUNTIME_FLASH_BYTES: usize = 48 * 1024;
/// RAM that stack and statics take besides the arena: the deepest stack counted on any board (1,964 bytes, Cortex-M55)
/// and a margin for interrupts.
pub const RUNTIME_RAM_BYTES: usize = 2560;
/// What the latency column stands on.
pub const BASIS: &str = "latency = instructions x cycles per instruction / clock; instructions are counted in the emulator \
    (for this model where marked, else estimated from counts of other models per operator kind), cycles per instruction are \
    assumed per core (M0 1.44, M0+ 1.38, M4 1.25, M33 1.2, M7 0.7, M55 1.4; no flash wait states)";

/// What a model asks of a board.
#[derive(Clone, Debug, Serialize)]
pub struct Demand {
    /// Model (without the section for people) and runtime.
    pub flash_bytes: usize,
    /// Arena, stack and statics.
    pub ram_bytes: usize,
    /// Instructions of one inference by core.
    #[serde(skip)]
    pub instructions: HashMap<Core, Count>,
}

/// Instructions of one inference.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    /// The number.
    pub instructions: f64,
    /// Counted in the emulator rather than estimated from counts of other models.
    pub counted: bool,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Fit {
    /// The board.
    #[serde(flatten)]
    pub board: Board,
    /// Whether flash and RAM suffice.
    pub fits: bool,
    /// Flash that is left; negative where it is missing.
    pub flash_left_bytes: i64,
    /// RAM that is left; negative where it is missing.
    pub ram_left_bytes: i64,
    /// Instructions of one inference.
    pub instructions: f64,
    /// Whether they were counted for this model.
    pub counted: bool,
    /// `instructions * cycles_per_instruction / clock`.
    pub latency_ms: f64,
}

/// What `model` asks of any board; instruction counts are estimates.
pub fn demand<B: Kernels>(model: &Model<'_, B>) -> Demand {
    let cores: std::collections::HashSet<Core> = BOARDS.iter().map(|b| b.core).collect();
    let estimate = |core| Count { instructions: estimate(model, core), counted: false };
    Demand {
        flash_bytes: model.file_bytes() - model.sections().get(SectionKind::Annotations).len() + RUNTIME_FLASH_BYTES,
        ram_bytes: model.arena_bytes() + model.state_bytes() + RUNTIME_RAM_BYTES,
        instructions: cores.into_iter().map(|core| (core, estimate(core))).collect(),
    }
}

fn estimate<B: Kernels>(model: &Model<'_, B>, core: Core) -> f64 {
    let of_op = |op: usize| {
        let record = model.op_record(op)?;
        let params = Op::decode(model.op_kind(op)?, model.op_params(op)?)?;
        let elements = |tensor: u16| model.tensor(usize::from(tensor)).map_or(0, |t| t.len());
        let blocks = model.chain(op)?.blocks();
        let one_run = cost::instructions(core, &params, elements(record.inputs[0]), elements(record.output));
        Some(one_run + f64::from(blocks.saturating_sub(1)) * cost::per_block(&params))
    };
    (0..model.n_ops()).filter_map(of_op).sum::<f64>().round()
}

/// The table for all boards, or the line of one.
pub fn fit(demand: &Demand, board: Option<&str>) -> Vec<Fit> {
    BOARDS.iter().filter(|b| board.is_none_or(|key| matches(b, key))).map(|b| line(demand, b)).collect()
}

/// Whether `name` is the key or, ignoring case, the name of `board`.
pub fn matches(board: &Board, name: &str) -> bool {
    board.key == name || board.name.eq_ignore_ascii_case(name) || board.chip.eq_ignore_ascii_case(name)
}

fn line(demand: &Demand, board: &Board) -> Fit {
    let left = |kib: u32, needed: usize| i64::from(kib) * 1024 - needed as i64;
    let flash_left_bytes = left(board.flash_kib, demand.flash_bytes);
    let ram_left_bytes = left(board.ram_kib, demand.ram_bytes);
    let count = demand.instructions.get(&board.core).copied().unwrap_or(Count { instructions: 0.0, counted: false });
    let cycles = count.instructions * cycles_per_instruction(board.core);
    Fit {
        board: *board,
        fits: flash_left_bytes >= 0 && ram_left_bytes >= 0,
        flash_left_bytes,
        ram_left_bytes,
        instructions: count.instructions,
        counted: count.counted,
        latency_ms: cycles / (f64::from(board.clock_mhz) * 1e3),
    }
}

impl Fit {
    /// "fits", or what is missing.
    pub fn verdict(&self) -> String {
        let missing =
            |left: i64, what: &str| (left < 0).then(|| format!("{} {what} short", crate::text::bytes(-left as f64)));
        let lacks: Vec<String> = [missing(self.flash_left_bytes, "flash"), missing(self.ram_left_bytes, "RAM")]
            .into_iter()
            .flatten()
            .collect();
        if lacks.is_empty() { "fits".to_owned() } else { lacks.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(flash_bytes: usize, ram_bytes: usize) -> Demand {
        let count = Count { instructions: 16e6, counted: true };
        Demand { flash_bytes, ram_bytes, instructions: [(Core::M0, count)].into() }
    }

    #[test]
    fn the_last_byte_decides() {
        let microbit = |flash, ram| fit(&demand(flash, ram), Some("microbit")).remove(0);
        assert!(microbit(256 * 1024, 16 * 1024).fits);
        assert_eq!(microbit(256 * 1024 + 1, 16 * 1024).verdict(), "1 B flash short");
        assert_eq!(microbit(0, 16 * 1024 + 1024).verdict(), "1.0 KiB RAM short");
    }

    #[test]
    fn latency_is_instructions_times_cpi_over_clock() {
        let line = fit(&demand(0, 0), Some("BBC micro:bit v1")).remove(0);
        assert_eq!(line.latency_ms, 1440.0);
    }

    #[test]
    fn an_unknown_board_has_no_line() {
        assert!(fit(&demand(0, 0), Some("abacus")).is_empty());
    }
}
