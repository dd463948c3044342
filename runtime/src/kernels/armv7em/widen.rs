//! Activations to 16 bits, in the order in which `SXTB16` gives the weights.
//!
//! Four values of a row become two words: values 0 and 2, values 1 and 3.
//!
//! # Register plan
//! Pointer to values, pointer to words, bytes between words, steps left, two words. [`widen_row`], whose words follow
//! each other: `r0` values, `r1` words, `r2` groups left, `r4-r11` words.
//!
//! # Instructions
//! Four values: 8 (`LDR`, two to widen, two `STR`, pointer, counter, branch); one `LDR` more where they have 16 bits.
//! Sixteen values of a row of its own: 15 (4 `LDR`, 8 to widen, `STM`, counter, branch).

use core::arch::{asm, naked_asm};

/// K values that share two words.
pub const STEP: usize = 4;

/// Type of the elements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    I8,
    U8,
    U16,
}

/// Rows of elements that can be widened.
#[derive(Clone, Copy)]
pub struct Lanes<'x> {
    bytes: &'x [u8],
    kind: Kind,
}

impl<'x> Lanes<'x> {
    /// Signed bytes.
    pub fn i8(x: &'x [i8]) -> Self {
        Self { bytes: bytemuck::cast_slice(x), kind: Kind::I8 }
    }

    /// Unsigned bytes.
    pub fn u8(x: &'x [u8]) -> Self {
        Self { bytes: x, kind: Kind::U8 }
    }

    /// Unsigned 16-bit values.
    pub fn u16(x: &'x [u16]) -> Self {
        Self { bytes: bytemuck::cast_slice(x), kind: Kind::U16 }
    }

    fn size(&self) -> usize {
        if self.kind == Kind::U16 { 2 } else { 1 }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size()
    }
}

/// Where rows are widened to.
pub struct Words<'w> {
    /// The words.
    pub words: &'w mut [u32],
    /// Rows whose words alternate.
    pub rows: usize,
    /// Groups of four values of each row.
    pub steps: usize,
}

/// Widens `to.rows` rows of `k` elements, the first from element `first` on, `stride` elements apart; with zeros up to
/// the steps that are asked for. Nothing where there are fewer elements or words.
pub fn widen(x: Lanes<'_>, first: usize, stride: usize, k: usize, to: &mut Words<'_>) {
    let (size, rows) = (x.size(), to.rows);
    let room = to.words.len() >= to.steps * 2 * rows && k <= to.steps * STEP;
    if !room || rows == 0 || x.len() < first + (rows - 1) * stride + k {
        return;
    }
    let whole = k / STEP;
    let values = x.bytes.as_ptr().wrapping_add(first * size);
    let words = to.words.as_mut_ptr();
    // SAFETY: compared above: `k` elements of every row, and words for all steps.
    unsafe { steps(x.kind, (values, stride * size), (words, rows), rows, whole) };
    if whole == to.steps {
        return;
    }
    for row in 0..rows {
        let mut last = [0u8; STEP * 2];
        let from = (first + row * stride + whole * STEP) * size;
        let tail = x.bytes.get(from..from + (k - whole * STEP) * size).unwrap_or(&[]);
        last.iter_mut().zip(tail).for_each(|(to, &from)| *to = from);
        for step in whole..to.steps {
            let words = words.wrapping_add(step * 2 * rows + row);
            // SAFETY: one step, of which `last` holds the values; this word and that `rows` further on are there.
            unsafe { steps(x.kind, (last.as_ptr(), 0), (words, rows), 1, 1) };
            last = [0; STEP * 2];
        }
    }
}

macro_rules! widen_steps {
    ($from:ident, $to:ident, $rows:ident, $count:ident, $($other:ident,)? $($text:literal),+) => {
        for row in 0..$rows {
            asm!(
                core!(),
                "2:",
                $($text,)+
                "str {even}, [{to}]",
                "str {odd}, [{to}, {between}]",
                "add {to}, {to}, {between}, lsl #1",
                "subs {count}, #1",
                "bne 2b",
                x = inout(reg) $from.0.wrapping_add(row * $from.1) => _, to = inout(reg) $to.0.wrapping_add(row) => _,
                between = in(reg) $to.1 * size_of::<u32>(), count = inout(reg) $count => _, even = out(reg) _,
                odd = out(reg) _, $($other = out(reg) _,)? options(nostack)
            )
        }
    };
}

/// Widens `count` steps of `rows` rows. `from` is the first element and the bytes between rows, `to` the first word and
/// the words between those of one row.
///
/// # Safety
/// Every row is readable for `4 * count` elements, and `to` writable at `row + between * i` for `i < 2 * count`.
#[inline(never)]
unsafe fn steps(kind: Kind, from: (*const u8, usize), to: (*mut u32, usize), rows: usize, count: usize) {
    if count == 0 {
        return;
    }
    // SAFETY: as above; the loops read and write just that.
    unsafe {
        match kind {
            Kind::I8 => widen_steps!(
                from,
                to,
                rows,
                count,
                "ldr {odd}, [{x}], #4",
                "sxtb16 {even}, {odd}",
                "sxtb16 {odd}, {odd}, ror #8"
            ),
            Kind::U8 => widen_steps!(
                from,
                to,
                rows,
                count,
                "ldr {odd}, [{x}], #4",
                "uxtb16 {even}, {odd}",
                "uxtb16 {odd}, {odd}, ror #8"
            ),
            Kind::U16 => widen_steps!(
                from,
                to,
                rows,
                count,
                other,
                "ldr {odd}, [{x}], #4",
                "ldr {other}, [{x}], #4",
                "pkhbt {even}, {odd}, {other}, lsl #16",
                "pkhtb {odd}, {other}, {odd}, asr #16"
            ),
        }
    }
}

/// K values that [`widen_row`] takes at a time, and their words.
const GROUP: usize = 16;
const GROUP_WORDS: usize = GROUP / 2;

/// Widens one row of 8-bit values, with zeros up to a whole group. Nothing where there are fewer words.
pub fn widen_row(x: &[i8], words: &mut [u32]) {
    let (whole, tail) = x.as_chunks::<GROUP>();
    let Some((to, rest)) = words.as_chunks_mut::<GROUP_WORDS>().0.split_at_mut_checked(whole.len()) else { return };
    if !whole.is_empty() {
        // SAFETY: as many groups of words as of values.
        unsafe { groups(whole.as_ptr(), to.as_mut_ptr(), whole.len()) };
    }
    if let ([_, ..], [to, ..]) = (tail, rest) {
        let (mut last, mut tail) = ([0; GROUP], tail.iter());
        last.fill_with(|| tail.next().copied().unwrap_or(0));
        // SAFETY: one group of each.
        unsafe { groups(&last, to, 1) };
    }
}

/// Widens `count` groups, at least one.
///
/// # Safety
/// As many groups are readable and writable.
#[unsafe(naked)]
unsafe extern "C" fn groups(from: *const [i8; GROUP], to: *mut [u32; GROUP_WORDS], count: usize) {
    macro_rules! step {
        ($even:literal, $odd:literal) => {
            concat!("ldr ", $odd, ", [r0], #4\nsxtb16 ", $even, ", ", $odd, "\nsxtb16 ", $odd, ", ", $odd, ", ror #8\n")
        };
    }
    naked_asm!(
        core!(),
        "push {{r4-r11, lr}}",
        "2:",
        step!("r4", "r5"),
        step!("r6", "r7"),
        step!("r8", "r9"),
        step!("r10", "r11"),
        "stmia r1!, {{r4-r11}}",
        "subs r2, #1",
        "bne 2b",
        "pop {{r4-r11, pc}}",
    )
}
