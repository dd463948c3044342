use crate::testing::{Random, TestModel, assert_equal, assert_same_fault, cases};
use proptest::prelude::*;
use shiftformer::format::Blob;
use shiftformer::ops::Op;
use shiftformer::ops::embedding::{BOOK, Embedding, IdPart, TableFormat};
use shiftformer::tensor::Dtype;

#[derive(Clone, Debug)]
struct Case {
    rows: u32,
    size: u32,
    parts: u32,
    n: u32,
    format: TableFormat,
    part: IdPart,
    divisor: u32,
    scaled: bool,
    dtype: Dtype,
    id: Dtype,
}

impl Case {
    fn limit(&self) -> u32 {
        match self.part {
            IdPart::Whole => self.rows,
            IdPart::Quotient => self.rows * self.divisor,
            IdPart::Remainder => 100,
        }
    }

    fn model(&self) -> TestModel {
        let (mut test, mut random) = (TestModel::default(), Random(7));
        let product = self.format == TableFormat::Product;
        let (width, parts) = (self.size * self.parts, if product { self.parts } else { 0 });
        let ids = test.input(self.id, &[self.n]);
        let y = test.output(self.dtype, &[self.n, width]);
        let mut blob = |bytes: usize| if bytes == 0 { Blob::NONE } else { test.blob(&random.bytes(bytes)) };
        let op = Embedding {
            rows: self.rows,
            width,
            n: self.n,
            format: self.format,
            parts,
            part: self.part,
            divisor: if self.part == IdPart::Whole { 1 } else { self.divisor },
            limit: self.limit(),
            acc_shift: 2,
            multiplier: 3 << 15,
            codes: blob((self.rows * self.format.row_bytes(width, parts)) as usize),
            books: blob(if product { width as usize * BOOK } else { 0 }),
            scales: blob(if self.scaled { self.rows as usize * 2 } else { 0 }),
        };
        test.op(Op::Embedding(op), &[Some(ids)], y);
        test
    }
}

/// The low bytes of every id.
fn ids(ids: &[i32], dtype: Dtype) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(dtype.bytes())).collect()
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1u32..9, 1u32..5, 1u32..4, 1u32..9, 1u32..5);
    let formats = (prop::sample::select(TableFormat::ALL), prop::sample::select(IdPart::ALL), any::<bool>());
    let types = (
        prop::sample::select(vec![Dtype::I8, Dtype::I16]),
        prop::sample::select(vec![Dtype::I8, Dtype::I16, Dtype::I32]),
    );
    (sizes, formats, types).prop_map(|((rows, size, parts, n, divisor), (format, part, scaled), (dtype, id))| Case {
        rows: if part == IdPart::Remainder { rows.max(divisor) } else { rows },
        size,
        parts,
        n,
        format,
        part,
        divisor,
        scaled,
        dtype,
        id,
    })
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn decoded_rows_equal_portable(case in case(), seed in any::<u64>()) {
        let mut random = Random(seed);
        let lowest = if case.part == IdPart::Whole { -(case.rows as i32) } else { 0 };
        let mut sample = || {
            let picked: Vec<i32> = (0..case.n).map(|_| random.between(lowest, case.limit() as i32 - 1)).collect();
            vec![ids(&picked, case.id)]
        };
        assert_equal(&case.model(), &[sample(), sample()]);
    }
}

#[test]
fn the_first_index_out_of_range_is_reported() {
    let whole = Case {
        rows: 5,
        size: 3,
        parts: 2,
        n: 4,
        format: TableFormat::Product,
        part: IdPart::Whole,
        divisor: 4,
        scaled: true,
        dtype: Dtype::I8,
        id: Dtype::I32,
    };
    let quotient = Case { part: IdPart::Quotient, ..whole.clone() };
    for (case, bad) in [(&whole, i32::MIN), (&whole, -6), (&whole, 5), (&quotient, -1), (&quotient, 20)] {
        assert_same_fault(&case.model(), vec![ids(&[4, bad, 90, 0], Dtype::I32)]);
    }
}
