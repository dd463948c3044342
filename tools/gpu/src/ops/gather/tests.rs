use crate::testing::{Random, TestModel, assert_equal, assert_same_fault, cases};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::gather::Gather;
use shiftformer::tensor::Dtype;

fn model(rows: u32, width: u32, n: u32, dtype: Dtype, constant: bool, id: Dtype) -> TestModel {
    let mut test = TestModel::default();
    let bytes = (rows * width) as usize * dtype.bytes();
    let table = if constant {
        test.constant(dtype, &[rows, width], &Random(4).bytes(bytes))
    } else {
        test.input(dtype, &[rows, width])
    };
    let ids = test.input(id, &[n]);
    let y = test.output(dtype, &[n, width]);
    test.op(Op::Gather(Gather { rows, width, n }), &[Some(table), Some(ids)], y);
    test
}

/// The low bytes of every id.
fn ids(ids: &[i32], dtype: Dtype) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(dtype.bytes())).collect()
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn gathered_rows_equal_portable(
        rows in 1u32..9, width in 1u32..9, n in 1u32..9, constant in any::<bool>(), seed in any::<u64>(),
        dtype in prop::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32]),
        id in prop::sample::select(vec![Dtype::I8, Dtype::I16, Dtype::I32]),
    ) {
        let test = model(rows, width, n, dtype, constant, id);
        let mut random = Random(seed);
        let mut sample = || {
            let picked: Vec<i32> = (0..n).map(|_| random.between(-(rows as i32), rows as i32 - 1)).collect();
            let table = (!constant).then(|| random.bytes((rows * width) as usize * dtype.bytes()));
            table.into_iter().chain([ids(&picked, id)]).collect::<Vec<_>>()
        };
        assert_equal(&test, &[sample(), sample()]);
    }
}

#[test]
fn the_first_index_out_of_range_is_reported() {
    for (id, bad) in
        [(Dtype::I32, i32::MIN), (Dtype::I32, i32::MAX), (Dtype::I16, -6), (Dtype::I8, 5), (Dtype::I8, -128)]
    {
        let test = model(5, 3, 4, Dtype::I8, true, id);
        assert_same_fault(&test, vec![ids(&[4, bad, 9, 0], id)]);
    }
}
