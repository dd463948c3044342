//! Well-known boards and what is assumed of their cores.

use serde::Serialize;

/// A processor core and how instructions become time on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)]
pub enum Core {
    #[serde(rename = "Cortex-M0")]
    M0,
    #[serde(rename = "Cortex-M0+")]
    M0Plus,
    #[serde(rename = "Cortex-M4")]
    M4,
    #[serde(rename = "Cortex-M7")]
    M7,
    #[serde(rename = "Cortex-M33")]
    M33,
    #[serde(rename = "Cortex-M55")]
    M55,
}

impl Core {
    /// Name of the core.
    pub const fn name(self) -> &'static str {
        match self {
            Core::M0 => "Cortex-M0",
            Core::M0Plus => "Cortex-M0+",
            Core::M4 => "Cortex-M4",
            Core::M7 => "Cortex-M7",
            Core::M33 => "Cortex-M33",
            Core::M55 => "Cortex-M55",
        }
    }

    /// Assumed cycles per instruction, the second half of every latency estimate (the first are counted instructions).
    ///
    /// From the instruction timings in the cores' Technical Reference Manuals for a mix of one load per two arithmetic
    /// instructions and a taken branch per sixteen, with code and weights in memory without wait states:
    /// - M0: loads 2, taken branches 3, single-cycle multiplier: 0.62 * 1 + 0.32 * 2 + 0.06 * 3 = 1.44
    /// - M0+: loads 2, taken branches 2: 1.38
    /// - M4: loads 2, 1 when pipelined (taken as 1.4); branches 3: 1.25
    /// - M33: loads 1 to 2, branches 2: 1.2
    /// - M7: two instructions per cycle at best, one multiply-accumulate per cycle: 0.7
    /// - M55: vector instructions take 2 cycles, overlapped by halves: 1.4
    ///
    /// Flash wait states that a cache does not hide come on top.
    pub const fn cycles_per_instruction(self) -> f64 {
        match self {
            Core::M0 => 1.44,
            Core::M0Plus => 1.38,
            Core::M4 => 1.25,
            Core::M7 => 0.7,
            Core::M33 => 1.2,
            Core::M55 => 1.4,
        }
    }

    /// The emulated machine on which this core's instructions are counted.
    pub const fn counted_on(self) -> &'static str {
        match self {
            Core::M0 | Core::M0Plus => "qemu:microbit",
            Core::M4 => "qemu:mps2-an386",
            Core::M7 => "qemu:mps2-an500",
            Core::M33 => "qemu:mps2-an505",
            Core::M55 => "qemu:mps3-an547",
        }
    }
}

/// A board: one microcontroller with its memories.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Board {
    /// Name for `--board`.
    pub key: &'static str,
    /// Name of the board.
    pub name: &'static str,
    /// Microcontroller.
    pub chip: &'static str,
    /// Its core.
    pub core: Core,
    /// Clock in MHz.
    pub clock_mhz: u32,
    /// Flash that holds program and model, in KiB.
    pub flash_kib: u32,
    /// RAM in one piece that an arena can use, in KiB.
    pub ram_kib: u32,
    /// Document that states these figures.
    pub source: &'static str,
}

macro_rules! boards {
    ($($key:literal $name:literal $chip:literal $core:ident $mhz:literal $flash:literal $ram:literal $source:literal;)*) => {
        /// The boards, small ones first.
        pub const BOARDS: &[Board] = &[$(Board {
            key: $key, name: $name, chip: $chip, core: Core::$core, clock_mhz: $mhz, flash_kib: $flash, ram_kib: $ram,
            source: $source,
        },)*];
    };
}

// key, board, chip, core, MHz, flash KiB, RAM KiB, source
boards! {
    "microbit" "BBC micro:bit v1" "nRF51822" M0 16 256 16 "Nordic nRF51822 Product Specification";
    "nucleo-f072rb" "ST Nucleo-F072RB" "STM32F072RB" M0 48 128 16 "ST datasheet STM32F072x8/xB (DS9826)";
    "nucleo-g071rb" "ST Nucleo-G071RB" "STM32G071RB" M0Plus 64 128 36 "ST datasheet STM32G071x8/xB (DS12232)";
    "uno-r4" "Arduino UNO R4 Minima" "RA4M1" M4 48 256 32 "Renesas RA4M1 Group datasheet (R01DS0355)";
    "pico" "Raspberry Pi Pico" "RP2040" M0Plus 133 2048 264 "Raspberry Pi RP2040 and Pico datasheets";
    "nucleo-f411re" "ST Nucleo-F411RE" "STM32F411RE" M4 100 512 128 "ST datasheet STM32F411xC/xE (DS10314)";
    "microbit-v2" "BBC micro:bit v2" "nRF52833" M4 64 512 128 "Nordic nRF52833 Product Specification";
    "stm32f4-discovery" "ST STM32F4-Discovery" "STM32F407VG" M4 168 1024 128 "ST datasheet STM32F405xx/407xx (DS8626)";
    "nano-33-ble" "Arduino Nano 33 BLE" "nRF52840" M4 64 1024 256 "Nordic nRF52840 Product Specification";
    "nucleo-l4r5zi" "ST Nucleo-L4R5ZI" "STM32L4R5ZI" M4 120 2048 640 "ST datasheet STM32L4R5xx (DS12023)";
    "nrf5340-dk" "Nordic nRF5340 DK" "nRF5340" M33 128 1024 512 "Nordic nRF5340 Product Specification";
    "pico-2" "Raspberry Pi Pico 2" "RP2350" M33 150 4096 520 "Raspberry Pi RP2350 and Pico 2 datasheets";
    "nucleo-u575zi" "ST Nucleo-U575ZI-Q" "STM32U575ZI" M33 160 2048 768 "ST datasheet STM32U575xx (DS13737)";
    "stm32f746-disco" "ST STM32F746G-Discovery" "STM32F746NG" M7 216 1024 320 "ST datasheet STM32F745xx/746xx (DS10916)";
    "nucleo-h743zi" "ST Nucleo-H743ZI" "STM32H743ZI" M7 480 2048 512 "ST datasheet STM32H742xI/743xI (DS12110)";
    "teensy-4.1" "PJRC Teensy 4.1" "i.MX RT1062" M7 600 7936 512 "NXP i.MX RT1060 datasheet (IMXRT1060CEC), PJRC Teensy 4.1 page";
    "ensemble-e7" "Alif Ensemble E7 AppKit" "AE722F80F55D5" M55 400 5632 4096 "Alif Ensemble E7 datasheet";
    "stm32n6570-dk" "ST STM32N6570-DK" "STM32N657X0" M55 800 131072 2048 "ST datasheet STM32N657xx (DS14791), STM32N6570-DK user manual";
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
