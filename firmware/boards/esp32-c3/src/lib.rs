//! Espressif ESP32-C3.
#![no_std]

use core::arch::asm;
use esp_hal::Blocking;
use esp_hal::clock::CpuClock;
use esp_hal::gpio::{Level, Output, OutputConfig};
pub use esp_hal::main as entry;
use esp_hal::peripherals::{GPIO8, USB_DEVICE};
use esp_hal::usb::usb_serial_jtag::UsbSerialJtag;
#[cfg(feature = "digits")]
use esp_println as _;
use shiftformer_link::Core;
use support::led::ActiveLow;
use support::terminal::Talks;

// What the boot loader wants to know.
esp_bootloader_esp_idf::esp_app_desc!();

/// This board.
pub struct Board;

impl support::Board for Board {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const CORE: Core = Core::Rv32Imc;
    const COUNTER_HZ: u32 = 160_000_000;
    const STACK_BYTES: usize = 16 * 1024;
    type Led = ActiveLow<Output<'static>>;

    /// Core at 160 MHz; the counter of cycles, which this core has in place of the standard one.
    fn start() {
        let _ = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
        // SAFETY: registers of the ESP32-C3 Technical Reference Manual (`mpcer`: cycles, `mpcmr`: count), used by nobody else.
        unsafe { asm!("csrwi 0x7e0, 1", "csrwi 0x7e1, 1", options(nomem, nostack)) };
    }

    /// GPIO8, to which small boards connect an LED; the coloured one that Espressif's kits have there stays dark.
    fn led() -> Self::Led {
        // SAFETY: nobody else takes the pin.
        ActiveLow(Output::new(unsafe { GPIO8::steal() }, Level::High, OutputConfig::default()))
    }

    #[inline(always)]
    fn ticks() -> u32 {
        let cycles;
        // SAFETY: `mpccr`; reading changes nothing.
        unsafe { asm!("csrr {}, 0x7e2", out(reg) cycles, options(nomem, nostack)) };
        cycles
    }

    /// Nobody listens but for the log.
    fn exit(_success: bool) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }
}

impl Talks for Board {
    type Port = UsbSerialJtag<'static, Blocking>;

    /// The serial port of the chip's own USB.
    fn port() -> Self::Port {
        // SAFETY: nobody else takes it.
        UsbSerialJtag::new(unsafe { USB_DEVICE::steal() })
    }
}
