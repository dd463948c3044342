use crate::testing::{Random, TestModel, assert_equal};
use shiftformer::ops::Op;
use shiftformer::ops::lut::Lut;
use shiftformer::tensor::Dtype;

#[test]
fn every_entry_is_found_in_and_out_of_place() {
    for (dtype, in_place, len) in
        [(Dtype::I8, false, 256u32), (Dtype::I8, true, 255), (Dtype::I16, false, 253), (Dtype::I8, true, 1)]
    {
        let mut test = TestModel::default();
        let x = test.input(Dtype::I8, &[len]);
        let y = if in_place { test.alias(x, dtype, &[len]) } else { test.output(dtype, &[len]) };
        let table = test.blob(&Random(2).bytes(256 * dtype.bytes()));
        test.op(Op::Lut(Lut { len, table }), &[Some(x)], y);
        assert_equal(&test, &[vec![(0..len).map(|v| v as u8).collect()], vec![vec![0x80; len as usize]]]);
    }
}
