//! An emulated machine: what host and firmware must agree about.

use crate::Core;
use crate::boards::MACHINES;

/// A machine of an emulator and the core its programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name of the board's folder, and on command lines.
    pub name: &'static str,
    /// The emulator's program.
    pub emulator: &'static str,
    /// Arguments that select the machine.
    pub arguments: &'static [&'static str],
    /// Core its programs are built for.
    pub core: Core,
    /// Cores whose instructions are counted here.
    pub counts: &'static [Core],
    /// Whether its runner holds the portable kernels besides those of the core.
    pub portable: bool,
    /// Where the host puts a job.
    pub job_address: u32,
    /// Bytes of memory for it.
    pub job_bytes: u32,
    /// Rate of the counter that [`crate::Host::ticks`] reads.
    pub counter_hz: u32,
}

impl Machine {
    /// All machines, by name.
    pub const ALL: &[Self] = &MACHINES;

    /// The machine of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|machine| machine.name == name)
    }

    /// The machine of the board whose package this is, for the constant of `support::Board`.
    ///
    /// # Panics
    /// When the list has none of this name: in a constant a compile error.
    pub const fn of_package(name: &str) -> Self {
        let mut rest: &[Self] = Self::ALL;
        while let [machine, others @ ..] = rest {
            if are_equal(machine.name.as_bytes(), name.as_bytes()) {
                return *machine;
            }
            rest = others;
        }
        panic!("the list of machines has none of this package's name: run `cargo xtask boards`")
    }

    /// The machine on which instructions of `core` are counted.
    pub fn counting(core: Core) -> Option<&'static Self> {
        Self::ALL.iter().find(|machine| machine.counts.contains(&core))
    }

    /// Instructions for `ticks` of the counter, to the nearest, where one instruction takes `2^icount_shift` ns.
    pub fn instructions(&self, ticks: u32, icount_shift: u32) -> u64 {
        const NS_PER_SECOND: u128 = 1_000_000_000;
        let ns = u128::from(ticks) * NS_PER_SECOND;
        let per_instruction = u128::from(self.counter_hz) << icount_shift;
        ((ns + per_instruction / 2) / per_instruction) as u64
    }
}

/// `a == b`, for constants.
const fn are_equal(mut a: &[u8], mut b: &[u8]) -> bool {
    while let ([x, rest_a @ ..], [y, rest_b @ ..]) = (a, b) {
        if *x != *y {
            return false;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.is_empty() && b.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::{BOARDS, MICROBIT, MPS2_AN386};

    #[test]
    fn a_package_has_the_machine_of_its_name() {
        for machine in Machine::ALL {
            assert_eq!(Machine::of_package(machine.name), *machine);
        }
        assert!(!are_equal(b"mps2-an38", b"mps2-an386"));
        assert!(!are_equal(b"mps2-an386", b"mps2-an385"));
    }

    #[test]
    fn ticks_become_instructions() {
        // At 25 MHz and 64 ns an instruction takes 1.6 ticks.
        assert_eq!(MPS2_AN386.instructions(320_000, 6), 200_000);
        assert_eq!(MPS2_AN386.instructions(42 - 10, 6), 20);
        assert_eq!(MICROBIT.instructions(u32::MAX, 8), 1_048_576_000);
    }

    #[test]
    fn names_are_unique() {
        for machine in Machine::ALL {
            assert_eq!(Machine::by_name(machine.name), Some(machine));
        }
        assert_eq!(Machine::by_name("x"), None);
    }

    #[test]
    fn every_core_of_a_board_is_counted_on_one_machine() {
        for board in BOARDS {
            let machines = Machine::ALL.iter().filter(|machine| machine.counts.contains(&board.core));
            assert_eq!(machines.count(), 1, "{}", board.key);
        }
    }
}
