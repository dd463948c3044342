//! Multiply-accumulates a second of a loop that touches registers only: no dense layer can be faster.

/// What the processor can do.
pub struct Peak {
    pub macs_per_s: f64,
    pub how: &'static str,
}

/// The peak of the instructions that the kernels of this processor use; `None` where it is not known.
pub fn measure() -> Option<Peak> {
    #[cfg(target_arch = "x86_64")]
    return Some(x86::measure());
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Peak;
    use shiftformer_lab::clock;
    use std::arch::asm;

    /// Turns of a loop; a few milliseconds.
    const TURNS: u64 = 1 << 20;
    /// Loops, of which the fastest counts.
    const TRIES: usize = 15;

    pub fn measure() -> Peak {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor has the features of the function.
            let macs_per_s = fastest(12 * 64, || unsafe { vnni512() });
            return Peak { macs_per_s, how: "512-bit vpdpbusd" };
        }
        if is_x86_feature_detected!("avxvnni") {
            // SAFETY: the processor has the features of the function.
            return Peak { macs_per_s: fastest(12 * 32, || unsafe { vnni256() }), how: "256-bit vpdpbusd" };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the features of the function.
            return Peak { macs_per_s: fastest(6 * 16, || unsafe { madd256() }), how: "256-bit vpmaddwd and vpaddd" };
        }
        Peak { macs_per_s: fastest(6 * 8, madd128), how: "128-bit pmaddwd and paddd" }
    }

    fn fastest(macs_per_turn: u64, work: impl Fn()) -> f64 {
        let min = (0..TRIES).map(|_| clock::time(&work)).fold(f64::INFINITY, f64::min);
        (TURNS * macs_per_turn) as f64 / min
    }

    /// Twelve independent sums.
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn vnni512() {
        // SAFETY: registers only, all named below.
        unsafe {
            asm!(
                "2:",
                "vpdpbusd zmm0, zmm12, zmm13", "vpdpbusd zmm1, zmm12, zmm13", "vpdpbusd zmm2, zmm12, zmm13",
                "vpdpbusd zmm3, zmm12, zmm13", "vpdpbusd zmm4, zmm12, zmm13", "vpdpbusd zmm5, zmm12, zmm13",
                "vpdpbusd zmm6, zmm12, zmm13", "vpdpbusd zmm7, zmm12, zmm13", "vpdpbusd zmm8, zmm12, zmm13",
                "vpdpbusd zmm9, zmm12, zmm13", "vpdpbusd zmm10, zmm12, zmm13", "vpdpbusd zmm11, zmm12, zmm13",
                "sub {turns}, 1", "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                options(nomem, nostack),
            );
        }
    }

    /// Twelve independent sums.
    #[target_feature(enable = "avx2,avxvnni")]
    fn vnni256() {
        // SAFETY: registers only, all named below.
        unsafe {
            asm!(
                "2:",
                "{{vex}} vpdpbusd ymm0, ymm12, ymm13", "{{vex}} vpdpbusd ymm1, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm2, ymm12, ymm13", "{{vex}} vpdpbusd ymm3, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm4, ymm12, ymm13", "{{vex}} vpdpbusd ymm5, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm6, ymm12, ymm13", "{{vex}} vpdpbusd ymm7, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm8, ymm12, ymm13", "{{vex}} vpdpbusd ymm9, ymm12, ymm13",
                "{{vex}} vpdpbusd ymm10, ymm12, ymm13", "{{vex}} vpdpbusd ymm11, ymm12, ymm13",
                "sub {turns}, 1", "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                options(nomem, nostack),
            );
        }
    }

    /// Six products and six sums.
    #[target_feature(enable = "avx2")]
    fn madd256() {
        // SAFETY: registers only, all named below.
        unsafe {
            asm!(
                "2:",
                "vpmaddwd ymm6, ymm12, ymm13", "vpaddd ymm0, ymm0, ymm6",
                "vpmaddwd ymm7, ymm12, ymm13", "vpaddd ymm1, ymm1, ymm7",
                "vpmaddwd ymm8, ymm12, ymm13", "vpaddd ymm2, ymm2, ymm8",
                "vpmaddwd ymm9, ymm12, ymm13", "vpaddd ymm3, ymm3, ymm9",
                "vpmaddwd ymm10, ymm12, ymm13", "vpaddd ymm4, ymm4, ymm10",
                "vpmaddwd ymm11, ymm12, ymm13", "vpaddd ymm5, ymm5, ymm11",
                "sub {turns}, 1", "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                options(nomem, nostack),
            );
        }
    }

    /// Six products and six sums.
    fn madd128() {
        // SAFETY: registers only, all named below.
        unsafe {
            asm!(
                "2:",
                "pmaddwd xmm6, xmm13", "paddd xmm0, xmm6", "pmaddwd xmm7, xmm13", "paddd xmm1, xmm7",
                "pmaddwd xmm8, xmm13", "paddd xmm2, xmm8", "pmaddwd xmm9, xmm13", "paddd xmm3, xmm9",
                "pmaddwd xmm10, xmm13", "paddd xmm4, xmm10", "pmaddwd xmm11, xmm13", "paddd xmm5, xmm11",
                "sub {turns}, 1", "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                options(nomem, nostack),
            );
        }
    }
}
