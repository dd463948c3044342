//! The emulated machines: what host and firmware must agree about.

/// A machine of the emulator and the core its programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name on command lines, and of the board feature of the firmware.
    pub name: &'static str,
    /// Machine name of `qemu-system-arm`.
    pub qemu: &'static str,
    /// Core, for people.
    pub core: &'static str,
    /// Rust target.
    pub target: &'static str,
    /// `-Ctarget-cpu` of the code.
    pub cpu: &'static str,
    /// Where the host puts a job.
    pub job_address: u32,
    /// Bytes of memory for it.
    pub job_bytes: u32,
    /// Rate of the counter that [`crate::Host::ticks`] reads.
    pub counter_hz: u32,
}

const MB_16: u32 = 16 << 20;

/// Arm MPS2 with the AN386 image. The job lies in PSRAM.
pub const MPS2_AN386: Machine = Machine {
    name: "mps2-an386",
    qemu: "mps2-an386",
    core: "Cortex-M4",
    target: "thumbv7em-none-eabihf",
    cpu: "cortex-m4",
    job_address: 0x2100_0000,
    job_bytes: MB_16,
    counter_hz: 25_000_000,
};

/// Arm MPS2 with the AN500 image. The job lies in PSRAM.
pub const MPS2_AN500: Machine = Machine {
    name: "mps2-an500",
    qemu: "mps2-an500",
    core: "Cortex-M7",
    cpu: "cortex-m7",
    job_address: 0x6000_0000,
    ..MPS2_AN386
};

/// Arm MPS2 with the AN505 image. The job lies in PSRAM.
pub const MPS2_AN505: Machine = Machine {
    name: "mps2-an505",
    qemu: "mps2-an505",
    core: "Cortex-M33",
    target: "thumbv8m.main-none-eabihf",
    cpu: "cortex-m33",
    job_address: 0x8000_0000,
    job_bytes: MB_16,
    counter_hz: 20_000_000,
};

/// Arm MPS3 with the AN547 image. The job lies in DDR memory.
pub const MPS3_AN547: Machine = Machine {
    name: "mps3-an547",
    qemu: "mps3-an547",
    core: "Cortex-M55",
    target: "thumbv8m.main-none-eabihf",
    cpu: "cortex-m55",
    job_address: 0x6000_0000,
    job_bytes: MB_16,
    counter_hz: 20_000_000,
};

/// BBC micro:bit: 256 KB flash, 16 KB RAM. The job lies in the upper half of the flash, behind the program.
pub const MICROBIT: Machine = Machine {
    name: "microbit",
    qemu: "microbit",
    core: "Cortex-M0",
    target: "thumbv6m-none-eabi",
    cpu: "cortex-m0",
    job_address: 0x0002_0000,
    job_bytes: 0x0002_0000,
    counter_hz: 16_000_000,
};

/// Code of a Cortex-M0 on the MPS2 with its larger memory: to count instructions of models no micro:bit holds.
pub const M0_LARGE: Machine = Machine {
    name: "m0-large",
    qemu: "mps2-an386",
    core: "Cortex-M0",
    target: "thumbv6m-none-eabi",
    cpu: "cortex-m0",
    ..MPS2_AN386
};

impl Machine {
    /// All machines.
    pub const ALL: [Machine; 6] = [MPS2_AN386, MPS2_AN500, MPS2_AN505, MPS3_AN547, MICROBIT, M0_LARGE];

    /// The machine of this name.
    pub fn by_name(name: &str) -> Option<&'static Machine> {
        const ALL: &[Machine] = &Machine::ALL;
        ALL.iter().find(|machine| machine.name == name)
    }

    /// Instructions for `ticks` of the counter, to the nearest, where one instruction takes `2^icount_shift` ns.
    pub fn instructions(&self, ticks: u32, icount_shift: u32) -> u64 {
        const NS_PER_SECOND: u128 = 1_000_000_000;
        let ns = u128::from(ticks) * NS_PER_SECOND;
        let per_instruction = u128::from(self.counter_hz) << icount_shift;
        ((ns + per_instruction / 2) / per_instruction) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(Machine::by_name(machine.name), Some(&machine));
        }
        assert_eq!(Machine::by_name("x"), None);
    }
}
