//! What is assumed of the cores of boards. The boards themselves are described in `firmware/boards`.

pub use shiftformer_link::boards::BOARDS;
pub use shiftformer_link::{Board, Core};

/// Assumed cycles per instruction, the second half of every latency estimate (the first are counted instructions).
///
/// From the instruction timings in the cores' Technical Reference Manuals for a mix of one load per two arithmetic
/// instructions and a taken branch per sixteen, with code and weights in memory without wait states:
/// - M0: loads 2, taken branches 3, single-cycle multiplier: 0.62 * 1 + 0.32 * 2 + 0.06 * 3 = 1.44
/// - M0+: loads 2, taken branches 2: 1.38
/// - M3: as M4, and a second cycle for each multiply-accumulate, a quarter of the instructions: 1.5
/// - M4: loads 2, 1 when pipelined (taken as 1.4); branches 3: 1.25
/// - M23: as M0+
/// - M33: loads 1 to 2, branches 2: 1.2
/// - M7: two instructions per cycle at best, one multiply-accumulate per cycle: 0.7
/// - M55: vector instructions take 2 cycles, overlapped by halves: 1.4
/// - RV32IMC, RV32IMAC: a short pipeline with a single-cycle multiplier, as M0
///
/// Flash wait states that a cache does not hide come on top.
pub const fn cycles_per_instruction(core: Core) -> f64 {
    match core {
        Core::M0 | Core::Rv32Imc | Core::Rv32Imac => 1.44,
        Core::M0Plus | Core::M23 => 1.38,
        Core::M3 => 1.5,
        Core::M4 => 1.25,
        Core::M7 => 0.7,
        Core::M33 => 1.2,
        Core::M55 => 1.4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        for (index, board) in BOARDS.iter().enumerate() {
            assert!(BOARDS[..index].iter().all(|other| other.key != board.key), "{}", board.key);
        }
        assert!(BOARDS.len() >= 12);
    }
}
