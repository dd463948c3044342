//! What happens when the processor faults.

use cortex_m_rt::{ExceptionFrame, exception};

/// Ends the emulation with a failure, where the default handler would loop for ever.
#[exception]
unsafe fn HardFault(_frame: &ExceptionFrame) -> ! {
    crate::semihosting::exit(false)
}
