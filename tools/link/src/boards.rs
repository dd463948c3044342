//! The boards, from `firmware/boards/*/board.toml` and `firmware/catalog` by `cargo xtask boards`: edit
//! those.

use crate::{Board, Core, Machine};

/// `m0-large`.
pub const M0_LARGE: Machine = Machine {
    name: "m0-large",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an386"],
    core: Core::M0,
    counts: &[],
    portable: true,
    job_address: 0x2100_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 25_000_000,
};

/// `m23-large`.
pub const M23_LARGE: Machine = Machine {
    name: "m23-large",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an505"],
    core: Core::M23,
    counts: &[Core::M23],
    portable: true,
    job_address: 0x8000_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 20_000_000,
};

/// `microbit`.
pub const MICROBIT: Machine = Machine {
    name: "microbit",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "microbit"],
    core: Core::M0,
    counts: &[Core::M0, Core::M0Plus],
    portable: false,
    job_address: 0x0002_b000,
    job_bytes: 0x0001_5000,
    counter_hz: 16_000_000,
};

/// `mps2-an385`.
pub const MPS2_AN385: Machine = Machine {
    name: "mps2-an385",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an385"],
    core: Core::M3,
    counts: &[Core::M3],
    portable: true,
    job_address: 0x2100_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 25_000_000,
};

/// `mps2-an386`.
pub const MPS2_AN386: Machine = Machine {
    name: "mps2-an386",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an386"],
    core: Core::M4,
    counts: &[Core::M4],
    portable: true,
    job_address: 0x2100_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 25_000_000,
};

/// `mps2-an500`.
pub const MPS2_AN500: Machine = Machine {
    name: "mps2-an500",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an500"],
    core: Core::M7,
    counts: &[Core::M7],
    portable: true,
    job_address: 0x6000_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 25_000_000,
};

/// `mps2-an505`.
pub const MPS2_AN505: Machine = Machine {
    name: "mps2-an505",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps2-an505"],
    core: Core::M33,
    counts: &[Core::M33],
    portable: true,
    job_address: 0x8000_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 20_000_000,
};

/// `mps3-an547`.
pub const MPS3_AN547: Machine = Machine {
    name: "mps3-an547",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "mps3-an547"],
    core: Core::M55,
    counts: &[Core::M55],
    portable: true,
    job_address: 0x6000_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 20_000_000,
};

/// `netduinoplus2`.
pub const NETDUINOPLUS2: Machine = Machine {
    name: "netduinoplus2",
    emulator: "qemu-system-arm",
    arguments: &["-machine", "netduinoplus2"],
    core: Core::M4,
    counts: &[],
    portable: true,
    job_address: 0x0804_0000,
    job_bytes: 0x000c_0000,
    counter_hz: 10_000_000,
};

/// `virt-rv32`.
pub const VIRT_RV32: Machine = Machine {
    name: "virt-rv32",
    emulator: "qemu-system-riscv32",
    arguments: &["-machine", "virt", "-bios", "none"],
    core: Core::Rv32Imac,
    counts: &[Core::Rv32Imac, Core::Rv32Imc],
    portable: true,
    job_address: 0x8100_0000,
    job_bytes: 0x0100_0000,
    counter_hz: 10_000_000,
};

/// The emulated machines, by name.
pub const MACHINES: [Machine; 10] = [
    M0_LARGE,
    M23_LARGE,
    MICROBIT,
    MPS2_AN385,
    MPS2_AN386,
    MPS2_AN500,
    MPS2_AN505,
    MPS3_AN547,
    NETDUINOPLUS2,
    VIRT_RV32,
];

/// The boards that `shiftformer fit` knows, by core, then RAM, then flash.
pub const BOARDS: [Board; 20] = [
    Board {
        key: "nucleo-f072rb",
        name: "ST Nucleo-F072RB",
        chip: "STM32F072RB",
        core: Core::M0,
        clock_mhz: 48,
        flash_kib: 128,
        ram_kib: 16,
        source: "ST datasheet STM32F072x8/xB (DS9826)",
    },
    Board {
        key: "microbit",
        name: "BBC micro:bit v1",
        chip: "nRF51822",
        core: Core::M0,
        clock_mhz: 16,
        flash_kib: 256,
        ram_kib: 16,
        source: "Nordic nRF51822 Product Specification",
    },
    Board {
        key: "nucleo-g071rb",
        name: "ST Nucleo-G071RB",
        chip: "STM32G071RB",
        core: Core::M0Plus,
        clock_mhz: 64,
        flash_kib: 128,
        ram_kib: 36,
        source: "ST datasheet STM32G071x8/xB (DS12232)",
    },
    Board {
        key: "pico",
        name: "Raspberry Pi Pico",
        chip: "RP2040",
        core: Core::M0Plus,
        clock_mhz: 133,
        flash_kib: 2048,
        ram_kib: 264,
        source: "Raspberry Pi RP2040 and Pico datasheets",
    },
    Board {
        key: "esp32-c3",
        name: "Espressif ESP32-C3",
        chip: "ESP32-C3",
        core: Core::Rv32Imc,
        clock_mhz: 160,
        flash_kib: 4096,
        ram_kib: 313,
        source: "Espressif ESP32-C3 datasheet",
    },
    Board {
        key: "uno-r4",
        name: "Arduino UNO R4 Minima",
        chip: "RA4M1",
        core: Core::M4,
        clock_mhz: 48,
        flash_kib: 256,
        ram_kib: 32,
        source: "Renesas RA4M1 Group datasheet (R01DS0355)",
    },
    Board {
        key: "microbit-v2",
        name: "BBC micro:bit v2",
        chip: "nRF52833",
        core: Core::M4,
        clock_mhz: 64,
        flash_kib: 512,
        ram_kib: 128,
        source: "Nordic nRF52833 Product Specification",
    },
    Board {
        key: "nucleo-f411re",
        name: "ST Nucleo-F411RE",
        chip: "STM32F411RE",
        core: Core::M4,
        clock_mhz: 100,
        flash_kib: 512,
        ram_kib: 128,
        source: "ST datasheet STM32F411xC/xE (DS10314)",
    },
    Board {
        key: "stm32f4-discovery",
        name: "ST STM32F4-Discovery",
        chip: "STM32F407VG",
        core: Core::M4,
        clock_mhz: 168,
        flash_kib: 1024,
        ram_kib: 128,
        source: "ST datasheet STM32F405xx/407xx (DS8626)",
    },
    Board {
        key: "nano-33-ble",
        name: "Arduino Nano 33 BLE",
        chip: "nRF52840",
        core: Core::M4,
        clock_mhz: 64,
        flash_kib: 1024,
        ram_kib: 256,
        source: "Nordic nRF52840 Product Specification",
    },
    Board {
        key: "nrf52840-dk",
        name: "Nordic nRF52840 DK",
        chip: "nRF52840",
        core: Core::M4,
        clock_mhz: 64,
        flash_kib: 1024,
        ram_kib: 256,
        source: "Nordic nRF52840 Product Specification",
    },
    Board {
        key: "nucleo-l4r5zi",
        name: "ST Nucleo-L4R5ZI",
        chip: "STM32L4R5ZI",
        core: Core::M4,
        clock_mhz: 120,
        flash_kib: 2048,
        ram_kib: 640,
        source: "ST datasheet STM32L4R5xx (DS12023)",
    },
    Board {
        key: "nrf5340-dk",
        name: "Nordic nRF5340 DK",
        chip: "nRF5340",
        core: Core::M33,
        clock_mhz: 128,
        flash_kib: 1024,
        ram_kib: 512,
        source: "Nordic nRF5340 Product Specification",
    },
    Board {
        key: "pico-2",
        name: "Raspberry Pi Pico 2",
        chip: "RP2350",
        core: Core::M33,
        clock_mhz: 150,
        flash_kib: 4096,
        ram_kib: 520,
        source: "Raspberry Pi RP2350 and Pico 2 datasheets",
    },
    Board {
        key: "nucleo-u575zi",
        name: "ST Nucleo-U575ZI-Q",
        chip: "STM32U575ZI",
        core: Core::M33,
        clock_mhz: 160,
        flash_kib: 2048,
        ram_kib: 768,
        source: "ST datasheet STM32U575xx (DS13737)",
    },
    Board {
        key: "stm32f746-disco",
        name: "ST STM32F746G-Discovery",
        chip: "STM32F746NG",
        core: Core::M7,
        clock_mhz: 216,
        flash_kib: 1024,
        ram_kib: 320,
        source: "ST datasheet STM32F745xx/746xx (DS10916)",
    },
    Board {
        key: "nucleo-h743zi",
        name: "ST Nucleo-H743ZI",
        chip: "STM32H743ZI",
        core: Core::M7,
        clock_mhz: 480,
        flash_kib: 2048,
        ram_kib: 512,
        source: "ST datasheet STM32H742xI/743xI (DS12110)",
    },
    Board {
        key: "teensy-4.1",
        name: "PJRC Teensy 4.1",
        chip: "i.MX RT1062",
        core: Core::M7,
        clock_mhz: 600,
        flash_kib: 7936,
        ram_kib: 512,
        source: "NXP i.MX RT1060 datasheet (IMXRT1060CEC), PJRC Teensy 4.1 page",
    },
    Board {
        key: "stm32n6570-dk",
        name: "ST STM32N6570-DK",
        chip: "STM32N657X0",
        core: Core::M55,
        clock_mhz: 800,
        flash_kib: 131072,
        ram_kib: 2048,
        source: "ST datasheet STM32N657xx (DS14791), STM32N6570-DK user manual",
    },
    Board {
        key: "ensemble-e7",
        name: "Alif Ensemble E7 AppKit",
        chip: "AE722F80F55D5",
        core: Core::M55,
        clock_mhz: 400,
        flash_kib: 5632,
        ram_kib: 4096,
        source: "Alif Ensemble E7 datasheet",
    },
];
