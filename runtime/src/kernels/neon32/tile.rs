//! Two rows by four columns of products, of signed bytes and of 16-bit exponentials with signed bytes.
//!
//! Register plan: 8 sums of four lanes (Q8 to Q15), 2 rows (Q0, Q1), a column (Q2), 2 vectors of products (Q3, Q5), the bits
//! that are flipped in the rows (Q4). Per 16 of K, for 128 MACs: 6 VLD1, 2 VEOR, 8 VMULL, 8 VMLAL, 8 VPADAL; where a column
//! may have a -128, two products do not fit 16 bits, and 8 VMULL and 8 VPADAL take the place of VMLAL. 12 VPADD add up the
//! lanes at the end. With 16-bit exponentials, per 8 of K, for 64 MACs: 6 VLD1, 4 VMOVL, 16 VMLAL.

use super::asm::{function, lines};
use crate::kernels::GROUP;

/// Rows of a tile.
pub const ROWS: usize = 2;
/// Columns of a tile.
pub const COLUMNS: usize = 4;
/// Sums of a tile.
pub type Sums = [[i32; COLUMNS]; ROWS];

/// Exponentials of 16 bits that a turn takes.
pub const WORDS: usize = 8;

/// What a tile reads: the assembly knows this layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Operands {
    /// Rows.
    pub x: [*const i8; ROWS],
    /// Columns.
    pub w: [*const i8; COLUMNS],
    /// Bytes from a group of sixteen elements of a column to the next.
    pub step: usize,
    /// Groups, at least one.
    pub groups: usize,
    /// Bits to flip in the elements of the rows: 0x80 makes `x - 128` of an unsigned `x`.
    pub flip: u32,
}

unsafe extern "C" {
    /// Any columns.
    fn shiftformer_neon32_exact(operands: *const Operands, sums: *mut Sums);
    /// Columns without -128.
    fn shiftformer_neon32_narrow(operands: *const Operands, sums: *mut Sums);
    /// Rows of `u16` below 2^15, columns of which eight elements make a group.
    fn shiftformer_neon32_words(operands: *const WideOperands, sums: *mut Sums);
}

/// What a tile of 16-bit exponentials reads: the assembly knows this layout.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WideOperands {
    /// Rows.
    pub x: [*const u16; ROWS],
    /// Columns.
    pub y: [*const i8; COLUMNS],
    /// Groups of [`WORDS`] elements, at least one.
    pub groups: usize,
}

/// A column at `$w` with both rows, in the sums `$a` and `$b`.
macro_rules! column {
    ($w:literal, $a:literal, $b:literal, $high:expr) => {
        concat!(
            "vld1.8 {{d4, d5}}, [",
            $w,
            "], r8\n",
            "vmull.s8 q3, d0, d4\n",
            "vmull.s8 q5, d2, d4\n",
            $high,
            "vpadal.s16 ",
            $a,
            ", q3\n",
            "vpadal.s16 ",
            $b,
            ", q5\n",
        )
    };
}

/// The products of the second halves: added to those of the first, or to the sums of their own.
macro_rules! high {
    (narrow $a:literal $b:literal) => {
        "vmlal.s8 q3, d1, d5\nvmlal.s8 q5, d3, d5\n"
    };
    (exact $a:literal $b:literal) => {
        concat!(
            "vpadal.s16 ",
            $a,
            ", q3\n",
            "vpadal.s16 ",
            $b,
            ", q5\n",
            "vmull.s8 q3, d1, d5\n",
            "vmull.s8 q5, d3, d5\n",
        )
    };
}

/// Eight elements of a column at `$w` with those of both rows in Q0 and Q1, in the sums `$a` and `$b`.
macro_rules! wide_column {
    ($w:literal, $a:literal, $b:literal) => {
        concat!(
            "vld1.8 {{d6}}, [",
            $w,
            "]!\n",
            "vmovl.s8 q2, d6\n",
            "vmlal.s16 ",
            $a,
            ", d0, d4\n",
            "vmlal.s16 ",
            $b,
            ", d2, d4\n",
            "vmlal.s16 ",
            $a,
            ", d1, d5\n",
            "vmlal.s16 ",
            $b,
            ", d3, d5\n",
        )
    };
}

/// All sums are 0.
macro_rules! no_sums {
    () => {
        lines!(
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "vmov.i32 q10, #0",
            "vmov.i32 q11, #0",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "vmov.i32 q14, #0",
            "vmov.i32 q15, #0",
        )
    };
}

/// Adds up the lanes of every sum and stores them from R1 on.
macro_rules! store_sums {
    () => {
        lines!(
            "vpadd.i32 d16, d16, d17",
            "vpadd.i32 d17, d18, d19",
            "vpadd.i32 d18, d20, d21",
            "vpadd.i32 d19, d22, d23",
            "vpadd.i32 d16, d16, d17",
            "vpadd.i32 d17, d18, d19",
            "vpadd.i32 d24, d24, d25",
            "vpadd.i32 d25, d26, d27",
            "vpadd.i32 d26, d28, d29",
            "vpadd.i32 d27, d30, d31",
            "vpadd.i32 d24, d24, d25",
            "vpadd.i32 d25, d26, d27",
            "vst1.32 {{d16, d17}}, [r1]!",
            "vst1.32 {{d24, d25}}, [r1]",
        )
    };
}

/// The function `$name` of kind `$kind`, narrow or exact.
macro_rules! tile {
    ($name:literal, $kind:ident) => {
        function!(
            $name,
            "push {{r4-r9}}",
            "vpush {{d8-d11}}",
            "ldr r12, [r0, #32]",
            "ldm r0, {{r2-r9}}",
            "vdup.8 q4, r12",
            no_sums!(),
            "1:",
            "vld1.8 {{d0, d1}}, [r2]!",
            "vld1.8 {{d2, d3}}, [r3]!",
            "veor q0, q0, q4",
            "veor q1, q1, q4",
            column!("r4", "q8", "q12", high!($kind "q8" "q12")),
            column!("r5", "q9", "q13", high!($kind "q9" "q13")),
            column!("r6", "q10", "q14", high!($kind "q10" "q14")),
            column!("r7", "q11", "q15", high!($kind "q11" "q15")),
            "subs r9, r9, #1",
            "bne 1b",
            store_sums!(),
            "vpop {{d8-d11}}",
            "pop {{r4-r9}}",
            "bx lr",
        );
    };
}

tile!("shiftformer_neon32_exact", exact);
tile!("shiftformer_neon32_narrow", narrow);

function!(
    "shiftformer_neon32_words",
    "push {{r4-r8}}",
    "ldm r0, {{r2-r8}}",
    no_sums!(),
    "1:",
    "vld1.16 {{d0, d1}}, [r2]!",
    "vld1.16 {{d2, d3}}, [r3]!",
    wide_column!("r4", "q8", "q12"),
    wide_column!("r5", "q9", "q13"),
    wide_column!("r6", "q10", "q14"),
    wide_column!("r7", "q11", "q15"),
    "subs r8, r8, #1",
    "bne 1b",
    store_sums!(),
    "pop {{r4-r8}}",
    "bx lr",
);

impl WideOperands {
    /// The sums over the groups.
    ///
    /// # Safety
    /// The processor has NEON; rows and columns have the groups.
    pub unsafe fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        // SAFETY: the caller's contract.
        unsafe { shiftformer_neon32_words(self, &mut sums) };
        sums
    }
}

impl Operands {
    /// Adds the sums over the groups to `sums`. `exact`: a column may have a -128.
    ///
    /// # Safety
    /// The processor has NEON; rows and columns have the groups.
    unsafe fn add_groups(&self, exact: bool, sums: &mut Sums) {
        let mut part = Sums::default();
        // SAFETY: the caller's contract.
        unsafe {
            if exact {
                shiftformer_neon32_exact(self, &mut part);
            } else {
                shiftformer_neon32_narrow(self, &mut part);
            }
        }
        for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
            *sum = sum.wrapping_add(*part);
        }
    }

    /// The sums over `k` elements; `groups` does not matter. The columns have `padded` elements: those of packed weights
    /// go on to the end of a group with zeros.
    ///
    /// # Safety
    /// The processor has NEON; rows and columns have the elements.
    pub unsafe fn sums(mut self, k: usize, exact: bool, padded: bool) -> Sums {
        let mut sums = Sums::default();
        self.groups = k / GROUP;
        // SAFETY: the caller's contract; the last group is copied where it is not whole.
        unsafe {
            if self.groups > 0 {
                self.add_groups(exact, &mut sums);
            }
            let (done, left) = (k / GROUP * GROUP, k % GROUP);
            if left == 0 {
                return sums;
            }
            let rest = |from: *const i8| {
                let mut group = [0i8; GROUP];
                core::ptr::copy_nonoverlapping(from, group.as_mut_ptr(), left);
                group
            };
            // What is flipped to -128 beyond the end meets zeros.
            let x = self.x.map(|x| rest(x.add(done)));
            let at = self.groups * self.step;
            let columns = self.w.map(|w| if padded { [0; GROUP] } else { rest(w.add(at)) });
            let mut last = Self { groups: 1, ..self };
            last.x = [x[0].as_ptr(), x[1].as_ptr()];
            for ((to, from), column) in last.w.iter_mut().zip(self.w).zip(&columns) {
                *to = if padded { from.add(at) } else { column.as_ptr() };
            }
            last.add_groups(exact, &mut sums);
        }
        sums
    }
}
