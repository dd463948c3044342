//! Products of packed rows with packed columns: the inner loops of dense layers and attention.
//!
//! Rows and columns are packed alike, in tiles of twelve, eight or four rows and in blocks of eight columns, sixteen
//! elements of K (a group) at a time. What the sums of a tile start from are registers, the tile is returned in registers.
//!
//! | engine | layout of `R` rows | registers | per group of 12 x 8, 1536 MACs |
//! |---|---|---|---|
//! | [`Sdot`] | `[groups][R / 4][4 words][4 rows][4]` | 24 sums, 2 words of 12 rows, 2 words of 4 columns | 96 SDOT, 10 LDP, 2 to loop |
//! | [`Smmla`] | `[groups][2 halves][R / 2][2 rows][8]` | 24 sums, half of 12 rows, half of 4 columns | 48 SMMLA, 10 LDP, 2 to loop |
//! | [`Smull`] | `[R / 4][groups][4 rows][16]` | 16 sums, 4 rows, 4 columns, 4 products | 96 SMULL, 96 SMLAL2, 96 SADALP, 24 LDP, 12 to loop |
//!
//! SDOT takes a word of a row by its index, so that the lanes of a sum are columns and nothing has to be added up at the
//! end. SMMLA gives two rows by two columns, which one ZIP a vector puts in order. With SMULL the lanes are parts of K,
//! added up by 12 ADDP for 4 x 4 sums. Two products fit 16 bits where the columns have no -128; where they have one,
//! SMULL2 and a second SADALP take the place of SMLAL2.

use super::tiles::elements;
use crate::kernels::GROUP;
use core::arch::aarch64::*;
use core::arch::asm;

/// Columns of a block.
pub const COLUMNS: usize = 8;
/// Rows of the largest tile.
pub const ROWS: usize = 12;
/// Rows that are packed together.
pub const QUAD: usize = 4;

/// Sums of `R` rows with eight columns.
pub type Tile<const R: usize> = [[int32x4_t; 2]; R];

/// Rows, or columns, that lie in groups of sixteen elements somewhere.
#[derive(Clone, Copy)]
pub struct Source {
    /// First element.
    pub first: *const i8,
    /// Elements from a row to the next, within four rows.
    pub row: usize,
    /// Elements from four rows to the next four.
    pub quad: usize,
    /// Elements from a group to the next.
    pub group: usize,
    /// Rows that exist, at least 1; those beyond are the last one again.
    pub count: usize,
    /// Elements of a row.
    pub k: usize,
}

impl Source {
    /// `count` rows of `k` elements, `stride` apart.
    pub fn rows(first: *const i8, stride: usize, k: usize, count: usize) -> Self {
        Self { first, row: stride, quad: QUAD * stride, group: GROUP, count, k }
    }

    /// Where row `row` starts.
    ///
    /// # Safety
    /// The source has its rows.
    #[inline(always)]
    unsafe fn start(&self, row: usize) -> *const i8 {
        let row = row.min(self.count - 1);
        // SAFETY: the row exists.
        unsafe { self.first.add(row / QUAD * self.quad + row % QUAD * self.row) }
    }

    /// Hands every group of the four rows from `row` on to `put`, the last one filled up with zeros.
    ///
    /// # Safety
    /// The source has its rows.
    #[inline(always)]
    unsafe fn each_group(&self, row: usize, mut put: impl FnMut(usize, [int8x16_t; QUAD])) {
        // SAFETY: the caller's contract.
        unsafe {
            let rows = [0, 1, 2, 3].map(|index| self.start(row + index));
            let whole = self.k / GROUP;
            for group in 0..whole {
                put(group, rows.map(|row| vld1q_s8(row.add(group * self.group))));
            }
            if whole * GROUP < self.k {
                put(whole, rows.map(|row| elements(row.add(whole * self.group), self.k - whole * GROUP)));
            }
        }
    }
}

/// One way to multiply.
pub trait Engine {
    /// Puts four vectors, group `group` of four rows from `row` on, where they belong among `rows` rows of `groups` groups.
    ///
    /// # Safety
    /// There is room for the rows.
    unsafe fn put(to: *mut i8, quad: [int8x16_t; QUAD], at: At);

    /// The sums of twelve rows with eight columns, from `init` on. `exact`: the columns may have a -128.
    ///
    /// # Safety
    /// The processor has the instructions; rows and columns are packed and have `groups` groups, at least one.
    unsafe fn twelve(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<12>;

    /// The same of eight rows.
    ///
    /// # Safety
    /// As for [`twelve`](Self::twelve).
    unsafe fn eight(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<8>;

    /// The same of four rows.
    ///
    /// # Safety
    /// As for [`twelve`](Self::twelve).
    unsafe fn four(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<4>;

    /// Whether a -128 among the columns makes a difference.
    const LOOKS_FOR_MIN: bool;
}

/// A place among packed rows.
#[derive(Clone, Copy)]
pub struct At {
    /// First of four rows.
    pub row: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// Group.
    pub group: usize,
    /// Groups of a row.
    pub groups: usize,
}

/// Packs `rows` rows; whether one of them has a -128, where that makes a difference.
///
/// # Safety
/// The source has its rows; `to` has room for `rows` rows, a multiple of four, of whole groups.
#[inline(always)]
pub unsafe fn pack<E: Engine>(from: Source, rows: usize, to: *mut i8) -> bool {
    let groups = from.k.div_ceil(GROUP);
    // SAFETY: NEON is in every AArch64.
    let mut min = unsafe { vdupq_n_s8(0) };
    for row in (0..rows).step_by(QUAD) {
        // SAFETY: the caller's contract.
        unsafe {
            from.each_group(row, |group, quad| {
                if E::LOOKS_FOR_MIN {
                    min = quad.into_iter().fold(min, |min, row| vminq_s8(min, row));
                }
                E::put(to, quad, At { row, rows, group, groups });
            });
        }
    }
    // SAFETY: NEON is in every AArch64.
    E::LOOKS_FOR_MIN && unsafe { vminvq_s8(min) } == i8::MIN
}

/// By SMULL, SMLAL and SADALP: every AArch64 processor.
pub struct Smull;

impl Engine for Smull {
    const LOOKS_FOR_MIN: bool = true;

    #[inline(always)]
    unsafe fn put(to: *mut i8, [a, b, c, d]: [int8x16_t; QUAD], at: At) {
        // SAFETY: the caller's contract.
        unsafe {
            let to = to.add((at.row * at.groups + at.group * QUAD) * GROUP);
            vst1q_s8(to, a);
            vst1q_s8(to.add(GROUP), b);
            vst1q_s8(to.add(2 * GROUP), c);
            vst1q_s8(to.add(3 * GROUP), d);
        }
    }

    #[inline(always)]
    unsafe fn twelve(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<12> {
        // SAFETY: the caller's contract.
        unsafe { by_parts::<12>(a, w, groups, exact, init) }
    }

    #[inline(always)]
    unsafe fn eight(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<8> {
        // SAFETY: the caller's contract.
        unsafe { by_parts::<8>(a, w, groups, exact, init) }
    }

    #[inline(always)]
    unsafe fn four(a: *const i8, w: *const i8, groups: usize, exact: bool, init: [int32x4_t; 2]) -> Tile<4> {
        // SAFETY: the caller's contract.
        unsafe { by_parts::<4>(a, w, groups, exact, init) }
    }
}

/// A tile of [`Smull`], four rows by four columns at a time.
///
/// # Safety
/// As for [`Engine::twelve`].
#[inline(always)]
unsafe fn by_parts<const R: usize>(
    a: *const i8,
    w: *const i8,
    groups: usize,
    exact: bool,
    init: [int32x4_t; 2],
) -> Tile<R> {
    let mut tile = [init; R];
    let quad_bytes = groups * QUAD * GROUP;
    for (quad, rows) in tile.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
        for half in 0..COLUMNS / QUAD {
            // SAFETY: the caller's contract.
            let sums = unsafe {
                let (a, w) = (a.add(quad * quad_bytes), w.add(half * quad_bytes));
                if exact { part::<true>(a, w, groups) } else { part::<false>(a, w, groups) }
            };
            for (row, sums) in rows.iter_mut().zip(sums) {
                // SAFETY: NEON is in every AArch64.
                row[half] = unsafe { vaddq_s32(row[half], sums) };
            }
        }
    }
    tile
}

/// Four rows by four columns. All products come before they are used: an in-order core waits for each one that is used at
/// once.
///
/// # Safety
/// Rows and columns have their groups.
#[inline(never)]
unsafe fn part<const EXACT: bool>(a: *const i8, w: *const i8, groups: usize) -> [int32x4_t; QUAD] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); QUAD]; QUAD];
        for group in 0..groups {
            let at = group * QUAD * GROUP;
            let w = [0, 1, 2, 3].map(|column| vld1q_s8(w.add(at + column * GROUP)));
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = vld1q_s8(a.add(at + row * GROUP));
                let low = w.map(|w| vmull_s8(vget_low_s8(x), vget_low_s8(w)));
                if EXACT {
                    let high = w.map(|w| vmull_high_s8(x, w));
                    for ((acc, low), high) in acc.iter_mut().zip(low).zip(high) {
                        *acc = vpadalq_s16(vpadalq_s16(*acc, low), high);
                    }
                } else {
                    let mut sums = low;
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = vmlal_high_s8(*sum, x, w);
                    }
                    for (acc, sum) in acc.iter_mut().zip(sums) {
                        *acc = vpadalq_s16(*acc, sum);
                    }
                }
            }
        }
        acc.map(|[a, b, c, d]| vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)))
    }
}

/// By SDOT.
pub struct Sdot;

/// Four rows whose words are in register `$x` with columns in `$w`: the sums of a row are every other register.
macro_rules! sdot_quad {
    ($w:literal, $x:literal: $a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            "sdot v", $a, ".4s, v", $w, ".16b, v", $x, ".4b[0]\n", "sdot v", $b, ".4s, v", $w, ".16b, v", $x,
            ".4b[1]\n", "sdot v", $c, ".4s, v", $w, ".16b, v", $x, ".4b[2]\n", "sdot v", $d, ".4s, v", $w, ".16b, v",
            $x, ".4b[3]\n",
        )
    };
}

/// Two words of four, eight or twelve rows, in the first registers, with those of four columns, in 6 and 7; `$sums` are
/// the registers of the first row's sums, the second's and so on.
macro_rules! sdot_words {
    ($($even:literal $odd:literal: $a:literal $b:literal $c:literal $d:literal),*) => {
        concat!($(sdot_quad!("6", $even: $a $b $c $d),)* $(sdot_quad!("7", $odd: $a $b $c $d),)*)
    };
}

/// The loop over groups: `$words01` and `$words23` load words of the rows, `$low` and `$high` multiply them with the first
/// and the last four columns.
macro_rules! sdot_loop {
    ($words01:expr, $words23:expr, $low:expr, $high:expr) => {
        concat!(
            ".arch_extension dotprod\n2:\n",
            $words01,
            "ldp q6, q7, [{w}], #64\n",
            $low,
            "ldp q6, q7, [{w}], #-32\n",
            $high,
            $words23,
            "ldp q6, q7, [{w}], #64\n",
            $low,
            "ldp q6, q7, [{w}], #32\n",
            "subs {groups}, {groups}, #1\n",
            $high,
            "b.ne 2b\n",
        )
    };
}

impl Engine for Sdot {
    const LOOKS_FOR_MIN: bool = false;

    #[inline(always)]
    unsafe fn put(to: *mut i8, [a, b, c, d]: [int8x16_t; QUAD], at: At) {
        // SAFETY: the caller's contract.
        unsafe {
            let to = to.add((at.group * at.rows + at.row) * GROUP);
            let words = int32x4x4_t(words(a), words(b), words(c), words(d));
            vst4q_s32(to.cast(), words);
        }
    }

    #[inline(always)]
    unsafe fn twelve(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<12> {
        let mut sums = [init; 12];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                sdot_loop!(
                    "ldp q0, q1, [{a}], #64\nldp q2, q3, [{a}], #64\nldp q4, q5, [{a}], #-96\n",
                    "ldp q0, q1, [{a}], #64\nldp q2, q3, [{a}], #64\nldp q4, q5, [{a}], #32\n",
                    sdot_words!("0" "1": "8" "10" "12" "14", "2" "3": "16" "18" "20" "22", "4" "5": "24" "26" "28" "30"),
                    sdot_words!("0" "1": "9" "11" "13" "15", "2" "3": "17" "19" "21" "23", "4" "5": "25" "27" "29" "31")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1],
                inout("v10") sums[1][0], inout("v11") sums[1][1],
                inout("v12") sums[2][0], inout("v13") sums[2][1],
                inout("v14") sums[3][0], inout("v15") sums[3][1],
                inout("v16") sums[4][0], inout("v17") sums[4][1],
                inout("v18") sums[5][0], inout("v19") sums[5][1],
                inout("v20") sums[6][0], inout("v21") sums[6][1],
                inout("v22") sums[7][0], inout("v23") sums[7][1],
                inout("v24") sums[8][0], inout("v25") sums[8][1],
                inout("v26") sums[9][0], inout("v27") sums[9][1],
                inout("v28") sums[10][0], inout("v29") sums[10][1],
                inout("v30") sums[11][0], inout("v31") sums[11][1],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        sums
    }

    #[inline(always)]
    unsafe fn eight(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<8> {
        let mut sums = [init; 8];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                sdot_loop!(
                    "ldp q0, q1, [{a}], #64\nldp q2, q3, [{a}], #-32\n",
                    "ldp q0, q1, [{a}], #64\nldp q2, q3, [{a}], #32\n",
                    sdot_words!("0" "1": "8" "10" "12" "14", "2" "3": "16" "18" "20" "22"),
                    sdot_words!("0" "1": "9" "11" "13" "15", "2" "3": "17" "19" "21" "23")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1],
                inout("v10") sums[1][0], inout("v11") sums[1][1],
                inout("v12") sums[2][0], inout("v13") sums[2][1],
                inout("v14") sums[3][0], inout("v15") sums[3][1],
                inout("v16") sums[4][0], inout("v17") sums[4][1],
                inout("v18") sums[5][0], inout("v19") sums[5][1],
                inout("v20") sums[6][0], inout("v21") sums[6][1],
                inout("v22") sums[7][0], inout("v23") sums[7][1],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        sums
    }

    #[inline(always)]
    unsafe fn four(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<4> {
        let mut sums = [init; 4];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                sdot_loop!(
                    "ldp q0, q1, [{a}], #32\n",
                    "ldp q0, q1, [{a}], #32\n",
                    sdot_words!("0" "1": "8" "10" "12" "14"),
                    sdot_words!("0" "1": "9" "11" "13" "15")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1],
                inout("v10") sums[1][0], inout("v11") sums[1][1],
                inout("v12") sums[2][0], inout("v13") sums[2][1],
                inout("v14") sums[3][0], inout("v15") sums[3][1],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        sums
    }
}

/// Sixteen bytes as four words.
#[inline(always)]
fn words(bytes: int8x16_t) -> int32x4_t {
    // SAFETY: NEON is in every AArch64.
    unsafe { vreinterpretq_s32_s8(bytes) }
}

/// By SMMLA.
pub struct Smmla;

/// Two rows, in register `$x`, with two pairs of columns, in 6 and 7.
macro_rules! smmla_pairs {
    ($($x:literal: $a:literal $b:literal),*) => {
        concat!($(
            "smmla v", $a, ".4s, v", $x, ".16b, v6.16b\n",
            "smmla v", $b, ".4s, v", $x, ".16b, v7.16b\n",
        )*)
    };
}

/// The loop over groups: `$rows` loads half a group of the rows, `$low` and `$high` multiply them with the first and the
/// last four columns.
macro_rules! smmla_loop {
    ($rows:expr, $low:expr, $high:expr) => {
        concat!(
            ".arch_extension i8mm\n2:\n",
            $rows,
            "ldp q6, q7, [{w}], #32\n",
            $low,
            "ldp q6, q7, [{w}], #32\n",
            $high,
            $rows,
            "ldp q6, q7, [{w}], #32\n",
            $low,
            "ldp q6, q7, [{w}], #32\n",
            "subs {groups}, {groups}, #1\n",
            $high,
            "b.ne 2b\n",
        )
    };
}

impl Engine for Smmla {
    const LOOKS_FOR_MIN: bool = false;

    #[inline(always)]
    unsafe fn put(to: *mut i8, [a, b, c, d]: [int8x16_t; QUAD], at: At) {
        // SAFETY: the caller's contract.
        unsafe {
            let to = to.add((at.group * at.rows * 2 + at.row) * GROUP / 2);
            let half = at.rows * GROUP / 2;
            let [a, b, c, d] = [a, b, c, d].map(|row| vreinterpretq_s64_s8(row));
            vst1q_s64(to.cast(), vzip1q_s64(a, b));
            vst1q_s64(to.add(GROUP).cast(), vzip1q_s64(c, d));
            vst1q_s64(to.add(half).cast(), vzip2q_s64(a, b));
            vst1q_s64(to.add(half + GROUP).cast(), vzip2q_s64(c, d));
        }
    }

    #[inline(always)]
    unsafe fn twelve(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<12> {
        let mut sums = [pairs_of(init); 6];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                smmla_loop!(
                    "ldp q0, q1, [{a}], #32\nldp q2, q3, [{a}], #32\nldp q4, q5, [{a}], #32\n",
                    smmla_pairs!("0": "8" "9", "1": "12" "13", "2": "16" "17", "3": "20" "21", "4": "24" "25", "5": "28" "29"),
                    smmla_pairs!("0": "10" "11", "1": "14" "15", "2": "18" "19", "3": "22" "23", "4": "26" "27", "5": "30" "31")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1], inout("v10") sums[0][2], inout("v11") sums[0][3],
                inout("v12") sums[1][0], inout("v13") sums[1][1], inout("v14") sums[1][2], inout("v15") sums[1][3],
                inout("v16") sums[2][0], inout("v17") sums[2][1], inout("v18") sums[2][2], inout("v19") sums[2][3],
                inout("v20") sums[3][0], inout("v21") sums[3][1], inout("v22") sums[3][2], inout("v23") sums[3][3],
                inout("v24") sums[4][0], inout("v25") sums[4][1], inout("v26") sums[4][2], inout("v27") sums[4][3],
                inout("v28") sums[5][0], inout("v29") sums[5][1], inout("v30") sums[5][2], inout("v31") sums[5][3],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        in_rows(sums)
    }

    #[inline(always)]
    unsafe fn eight(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<8> {
        let mut sums = [pairs_of(init); 4];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                smmla_loop!(
                    "ldp q0, q1, [{a}], #32\nldp q2, q3, [{a}], #32\n",
                    smmla_pairs!("0": "8" "9", "1": "12" "13", "2": "16" "17", "3": "20" "21"),
                    smmla_pairs!("0": "10" "11", "1": "14" "15", "2": "18" "19", "3": "22" "23")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1], inout("v10") sums[0][2], inout("v11") sums[0][3],
                inout("v12") sums[1][0], inout("v13") sums[1][1], inout("v14") sums[1][2], inout("v15") sums[1][3],
                inout("v16") sums[2][0], inout("v17") sums[2][1], inout("v18") sums[2][2], inout("v19") sums[2][3],
                inout("v20") sums[3][0], inout("v21") sums[3][1], inout("v22") sums[3][2], inout("v23") sums[3][3],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        in_rows(sums)
    }

    #[inline(always)]
    unsafe fn four(a: *const i8, w: *const i8, groups: usize, _exact: bool, init: [int32x4_t; 2]) -> Tile<4> {
        let mut sums = [pairs_of(init); 2];
        // SAFETY: the caller's contract: the loads go over `groups` groups of both.
        unsafe {
            asm!(
                smmla_loop!(
                    "ldp q0, q1, [{a}], #32\n",
                    smmla_pairs!("0": "8" "9", "1": "12" "13"),
                    smmla_pairs!("0": "10" "11", "1": "14" "15")
                ),
                a = inout(reg) a => _, w = inout(reg) w => _, groups = inout(reg) groups => _,
                inout("v8") sums[0][0], inout("v9") sums[0][1], inout("v10") sums[0][2], inout("v11") sums[0][3],
                inout("v12") sums[1][0], inout("v13") sums[1][1], inout("v14") sums[1][2], inout("v15") sums[1][3],
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                options(readonly, nostack),
            );
        }
        in_rows(sums)
    }
}

/// What the sums of two rows with pairs of columns start from.
#[inline(always)]
fn pairs_of(init: [int32x4_t; 2]) -> [int32x4_t; 4] {
    // SAFETY: NEON is in every AArch64.
    unsafe {
        let [low, high] = init.map(|init| vreinterpretq_s64_s32(init));
        [vzip1q_s64(low, low), vzip2q_s64(low, low), vzip1q_s64(high, high), vzip2q_s64(high, high)]
            .map(|pairs| vreinterpretq_s32_s64(pairs))
    }
}

/// Sums of two rows by two columns as rows.
#[inline(always)]
fn in_rows<const P: usize, const R: usize>(pairs: [[int32x4_t; 4]; P]) -> Tile<R> {
    // SAFETY: NEON is in every AArch64.
    unsafe {
        let mut tile = [[vdupq_n_s32(0); 2]; R];
        for (rows, sums) in tile.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            let [a, b, c, d] = sums.map(|sums| vreinterpretq_s64_s32(sums));
            let even = [vzip1q_s64(a, b), vzip1q_s64(c, d)].map(|sums| vreinterpretq_s32_s64(sums));
            let odd = [vzip2q_s64(a, b), vzip2q_s64(c, d)].map(|sums| vreinterpretq_s32_s64(sums));
            *rows = [even, odd];
        }
        tile
    }
}
