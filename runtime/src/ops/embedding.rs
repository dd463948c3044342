//! Rows of a compressed table by index: embeddings of 8 or 4 bits with a scale per row, or product-quantized.
//!
//! Rows are decoded one by one, straight into the output: neither the table nor a row is ever unpacked in memory.
//!
//! # Reference
//! Product quantization: Jégou, Douze, Schmid, PAMI 33(1), 2011. Quotient and remainder: Shi et al., arXiv 1909.02107.

use super::{Division, Memory, OpFault, Operands, Operator, Proof, RunFault, require, wide};
use crate::arith::requant::mulhi_round;
use crate::format::{Blob, codes, op_params};
use crate::kernels::Kernels;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// Input 0 the ids `[n]` as `i32`, `i16` or `i8`; output `y: [n, width]` in `i8` or `i16` with
    /// `y[i][j] = sat(mulhi_round(e[row][j] * scale[row] << acc_shift, multiplier))`, where `row` is what `part` makes of
    /// id `i`, and `e` is `i8` as `format` has it.
    Embedding {
        /// Rows of the table.
        rows: u32,
        /// Elements of a row.
        width: u32,
        /// Number of ids.
        n: u32,
        /// How rows are stored.
        format: TableFormat,
        /// Parts that a row is divided into, each with a codebook of its own; 0 unless the format is `Product`.
        parts: u32,
        /// Which row an id stands for.
        part: IdPart,
        /// The number by which ids are divided; 1 where they are rows.
        divisor: u32,
        /// Ids are below it.
        limit: u32,
        /// Left shift of products with the scale of a row.
        acc_shift: u32,
        /// Requantization, not negative.
        multiplier: i32,
        /// The rows.
        codes: Blob,
        /// `[parts, 256, width / parts] i8`, for `Product`.
        books: Blob,
        /// `[rows] u16`; absent where every scale is 1.
        scales: Blob,
    }
}

/// Entries of a codebook: what a byte can name.
pub const BOOK: usize = 256;
/// Largest width of a row.
const MAX_WIDTH: u32 = 1 << 16;
/// Elements decoded at a time, an even number.
const CHUNK: usize = 32;

codes! {
    /// How the rows of a table are stored.
    TableFormat {
        /// `[rows, parts] u8`: entries of the codebooks.
        Product = 1,
        /// `[rows, ceil(width / 2)]`: element `2 j` in the low and `2 j + 1` in the high nibble, two's complement.
        I4 = 4,
        /// `[rows, width] i8`.
        I8 = 8,
    }
}

codes! {
    /// Which row an id stands for.
    IdPart {
        /// The id itself; negative ones count from the end.
        Whole = 0,
        /// `id / divisor`; there are no negative ids.
        Quotient = 1,
        /// `id % divisor`; there are no negative ids.
        Remainder = 2,
    }
}

impl TableFormat {
    /// Bytes of a row of `width` elements in `parts` parts.
    pub const fn row_bytes(self, width: u32, parts: u32) -> u32 {
        match self {
            Self::Product => parts,
            Self::I4 => width.div_ceil(2),
            Self::I8 => width,
        }
    }
}

/// What rows are decoded from.
struct Tables<'a> {
    codes: &'a [u8],
    books: &'a [i8],
    scales: &'a [u16],
}

impl Embedding {
    /// One code for all instruction sets.
    #[inline(never)]
    fn run_pieces(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let tables = Tables {
            codes: memory.inputs.blob(self.codes)?,
            books: memory.inputs.blob(self.books)?,
            scales: memory.inputs.blob(self.scales)?,
        };
        let (dtype, ids) = (memory.inputs.record(0).ok_or(RunFault::Memory)?.dtype, memory.inputs.bytes(0)?);
        let places = pieces.start as usize..pieces.end as usize;
        let width = self.width as usize;
        let mut buffer = [0i32; CHUNK];
        for (at, id) in places.clone().zip(wide::values(dtype, ids, places)) {
            let row = self.row(id).ok_or(RunFault::Index { value: id, limit: self.limit })? as usize;
            let scale = tables.scales.get(row).copied().map_or(1, i32::from);
            for first in (0..width).step_by(CHUNK) {
                let values = buffer.get_mut(..(width - first).min(CHUNK)).unwrap_or(&mut []);
                self.decode(&tables, row, first, values);
                values.iter_mut().for_each(|v| *v = mulhi_round((*v * scale) << self.acc_shift, self.multiplier));
                wide::store_out(memory, at * width + first, values);
            }
        }
        Ok(())
    }

    /// The row of an id, where there is one.
    fn row(&self, id: i32) -> Option<u32> {
        let from_start = match self.part {
            IdPart::Whole if id < 0 => id.checked_add_unsigned(self.rows)?,
            IdPart::Whole | IdPart::Quotient | IdPart::Remainder => id,
        };
        let id = u32::try_from(from_start).ok().filter(|&id| id < self.limit)?;
        match self.part {
            IdPart::Whole => Some(id),
            IdPart::Quotient => id.checked_div(self.divisor),
            IdPart::Remainder => id.checked_rem(self.divisor),
        }
    }

    /// Elements `first` and following of a row: `first` is a multiple of [`CHUNK`].
    fn decode(&self, tables: &Tables<'_>, row: usize, first: usize, to: &mut [i32]) {
        let row_bytes = self.format.row_bytes(self.width, self.parts) as usize;
        let codes = tables.codes.get(row * row_bytes..).unwrap_or(&[]);
        match self.format {
            TableFormat::I8 => {
                let codes = codes.get(first..).unwrap_or(&[]);
                to.iter_mut().zip(codes).for_each(|(to, &code)| *to = i32::from(code as i8));
            }
            TableFormat::I4 => {
                let codes = codes.get(first / 2..).unwrap_or(&[]);
                for (to, &code) in to.chunks_mut(2).zip(codes) {
                    let nibbles = [((code << 4) as i8) >> 4, (code as i8) >> 4];
                    to.iter_mut().zip(nibbles).for_each(|(to, nibble)| *to = nibble.into());
                }
            }
            TableFormat::Product => {
                let size = self.width.checked_div(self.parts).unwrap_or(1).max(1) as usize;
                let (mut part, mut within) = (first / size, first % size);
                for to in to {
                    let code = codes.get(part).copied().map_or(0, usize::from);
                    let entry = tables.books.get((part * BOOK + code) * size + within);
                    *to = entry.copied().map_or(0, i32::from);
                    within += 1;
                    if within == size {
                        (part, within) = (part + 1, 0);
                    }
                }
            }
        }
    }
}

/// Work of an element, and of finding a row.
const ELEMENT_WORK: u32 = 40;
const ROW_WORK: u32 = 300;

impl Operator for Embedding {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        require(self.rows > 0 && self.width > 0 && self.width <= MAX_WIDTH && self.multiplier >= 0, OpFault::Range)?;
        let reach = match self.part {
            IdPart::Whole => u64::from(self.rows),
            IdPart::Quotient => u64::from(self.rows) * u64::from(self.divisor),
            IdPart::Remainder if self.divisor <= self.rows => u64::MAX,
            IdPart::Remainder => 0,
        };
        // Ids are `i32`; the count from the end is a sum of two.
        let limited = self.limit > 0 && u64::from(self.limit) <= reach && self.limit < 1 << 31 && self.rows < 1 << 31;
        require(limited && self.divisor > 0, OpFault::Range)?;
        let whole = self.part == IdPart::Whole;
        require(!whole || self.limit == self.rows && self.divisor == 1, OpFault::Range)?;
        let (len, rows) = (u64::from(self.n) * u64::from(self.width), u64::from(self.rows));
        io.need_input(0, &[Dtype::I32, Dtype::I16, Dtype::I8], u64::from(self.n))?;
        io.need_output(&[Dtype::I8, Dtype::I16], len)?;
        let product = self.format == TableFormat::Product;
        require(product == (self.parts > 0), OpFault::Range)?;
        require(!product || self.width.is_multiple_of(self.parts), OpFault::Range)?;
        io.need_blob(self.codes, rows * u64::from(self.format.row_bytes(self.width, self.parts)))?;
        io.need_blob(self.books, if product { u64::from(self.width) * BOOK as u64 } else { 0 })?;
        let scaled = self.scales.is_some();
        io.need_blob(self.scales, if scaled { rows * size_of::<u16>() as u64 } else { 0 })?;
        let most = i64::from(if scaled { u16::MAX } else { 1 }) * i64::from(i8::MIN);
        Ok(Proof::of((most, -most), self.acc_shift))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        self.run_pieces(memory, pieces)
    }

    fn pieces(&self) -> u32 {
        self.n
    }

    fn piece_work(&self) -> u32 {
        self.width.saturating_mul(ELEMENT_WORK).saturating_add(ROW_WORK)
    }

    fn division(&self) -> Option<Division> {
        Some(Division::rows(self.width, 4 * u64::from(self.width)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use std::vec::Vec;

    /// The ratio 2^-16 in the full precision of a multiplier.
    const TO_UNITS: i32 = 1 << 16;

    fn table(format: TableFormat, rows: u32, width: u32, parts: u32, weights: &mut Weights, seed: u64) -> Embedding {
        let mut random = Random(seed);
        let mut bytes = |count: u32| -> Vec<u8> { (0..count).map(|_| random.below(256) as u8).collect() };
        let product = format == TableFormat::Product;
        let codes = weights.add(&bytes(rows * format.row_bytes(width, parts)));
        let books = if product { weights.add(&bytes(width * BOOK as u32)) } else { Blob::NONE };
        let scales = weights.add(&bytes(rows * 2));
        Embedding {
            rows,
            width,
            n: 0,
            format,
            parts,
            part: IdPart::Whole,
            divisor: 1,
            limit: rows,
            acc_shift: 0,
            multiplier: TO_UNITS,
            codes,
            books,
            scales,
        }
    }

    fn blob(weights: &Weights, blob: Blob) -> &[u8] {
        &weights.0[blob.offset as usize..][..blob.bytes as usize]
    }

    /// Element `column` of `row` by the layout that the documentation states.
    fn element(op: &Embedding, weights: &Weights, row: usize, column: usize) -> i32 {
        let (codes, width) = (blob(weights, op.codes), op.width as usize);
        match op.format {
            TableFormat::I8 => i32::from(codes[row * width + column] as i8),
            TableFormat::I4 => {
                let code = codes[row * width.div_ceil(2) + column / 2];
                let nibble = i32::from(if column.is_multiple_of(2) { code & 15 } else { code >> 4 });
                if nibble > 7 { nibble - 16 } else { nibble }
            }
            TableFormat::Product => {
                let (parts, size) = (op.parts as usize, width / op.parts as usize);
                let code = usize::from(codes[row * parts + column / size]);
                i32::from(blob(weights, op.books)[(column / size * BOOK + code) * size + column % size] as i8)
            }
        }
    }

    fn expected(op: &Embedding, weights: &Weights, ids: &[i32], dtype: Dtype) -> Vec<i32> {
        let value = |(&id, column): (&i32, usize)| {
            let row = match op.part {
                IdPart::Whole => id.rem_euclid(op.rows as i32),
                IdPart::Quotient => id / op.divisor as i32,
                IdPart::Remainder => id % op.divisor as i32,
            } as usize;
            let scale = &blob(weights, op.scales)[2 * row..][..2];
            let scale = i64::from(u16::from_le_bytes([scale[0], scale[1]]));
            let product = (i64::from(element(op, weights, row, column)) * scale) << op.acc_shift;
            let (low, high) = dtype.range();
            ((product * i64::from(op.multiplier) + (1 << 31)) >> 32).clamp(low.into(), high.into()) as i32
        };
        ids.iter().flat_map(|id| (0..op.width as usize).map(move |column| (id, column))).map(value).collect()
    }

    #[test]
    fn rows_are_decoded_as_documented() {
        for (format, width, parts) in [
            (TableFormat::I8, 1, 0),
            (TableFormat::I8, 67, 0),
            (TableFormat::I4, 1, 0),
            (TableFormat::I4, 33, 0),
            (TableFormat::I4, 64, 0),
            (TableFormat::Product, 5, 1),
            (TableFormat::Product, 66, 6),
            (TableFormat::Product, 40, 40),
        ] {
            for (dtype, multiplier, acc_shift) in [(Dtype::I16, 3 << 27, 3), (Dtype::I8, TO_UNITS, 0)] {
                let mut weights = Weights::default();
                let op = table(format, 9, width, parts, &mut weights, u64::from(width));
                let op = Embedding { n: 6, multiplier, acc_shift, ..op };
                let ids = [0, 8, 3, -1, -9, 5];
                let (_, y) = run(&op, &weights, &[(Dtype::I32, &ids)], (dtype, 6 * width as usize)).unwrap();
                assert_eq!(y, expected(&op, &weights, &ids, dtype), "{format:?} {width}");
            }
        }
    }

    #[test]
    fn quotients_and_remainders_name_rows() {
        for (part, rows, limit) in [(IdPart::Quotient, 4, 28), (IdPart::Remainder, 7, i32::MAX as u32)] {
            let mut weights = Weights::default();
            let op = table(TableFormat::I8, rows, 3, 0, &mut weights, 5);
            let op = Embedding { n: 4, part, divisor: 7, limit, ..op };
            let ids = [0, 6, 7, 27];
            let (_, y) = run(&op, &weights, &[(Dtype::I16, &ids)], (Dtype::I16, 12)).unwrap();
            assert_eq!(y, expected(&op, &weights, &ids, Dtype::I16));
            let fails = |id| run(&op, &weights, &[(Dtype::I32, &[0, id, 1, 2])], (Dtype::I16, 12)).is_err();
            assert!(fails(-1) && fails(i32::MIN) && fails(i32::MAX));
            assert_eq!(fails(28), part == IdPart::Quotient);
        }
    }

    #[test]
    fn tables_that_ids_could_leave_are_refused() {
        let mut weights = Weights::default();
        let op = Embedding { n: 1, ..table(TableFormat::Product, 4, 6, 3, &mut weights, 1) };
        let fault = |op: Embedding| run(&op, &weights, &[(Dtype::I32, &[0])], (Dtype::I8, op.width as usize)).err();
        assert_eq!(fault(op), None);
        let quotient = Embedding { part: IdPart::Quotient, divisor: 3, ..op };
        assert_eq!(fault(Embedding { limit: 12, ..quotient }), None);
        for wrong in [
            Embedding { limit: 13, ..quotient },
            Embedding { divisor: 0, ..quotient },
            Embedding { part: IdPart::Remainder, divisor: 5, ..op },
            Embedding { limit: 5, ..op },
            Embedding { limit: 0, ..op },
            Embedding { divisor: 2, ..op },
            Embedding { parts: 0, ..op },
            Embedding { parts: 4, ..op },
            Embedding { multiplier: -1, ..op },
            Embedding { format: TableFormat::I8, ..op },
        ] {
            assert_eq!(fault(wrong), Some(OpFault::Range), "{wrong:?}");
        }
        assert_eq!(fault(Embedding { rows: 5, limit: 5, ..op }), Some(OpFault::Blob));
        assert_eq!(fault(Embedding { width: 3, ..op }), Some(OpFault::Blob));
    }
}
