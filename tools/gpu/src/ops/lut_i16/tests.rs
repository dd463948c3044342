use crate::testing::{Fill, TestModel, assert_equal, fill};
use shiftformer::ops::Op;
use shiftformer::ops::lut_i16::{ENTRIES, LutI16};
use shiftformer::tensor::Dtype;

#[test]
fn every_argument_is_exact_in_and_out_of_place() {
    for in_place in [false, true] {
        for values in [Fill::Random(2), Fill::Alternating, Fill::Min] {
            let (mut test, len) = (TestModel::default(), 1u32 << 16);
            let x = test.input(Dtype::I16, &[len]);
            let y = if in_place { test.alias(x, Dtype::I16, &[len]) } else { test.output(Dtype::I16, &[len]) };
            let table = test.blob(&fill(values, Dtype::I16, ENTRIES));
            test.op(Op::LutI16(LutI16 { len, table }), &[Some(x)], y);
            assert_equal(&test, &[vec![(0..=u16::MAX).flat_map(u16::to_le_bytes).collect()]]);
        }
    }
}
