use crate::testing::{Random, TestModel, assert_equal, cases};
use proptest::prelude::*;
use shiftformer::arith::lmul::FloatFormat;
use shiftformer::ops::Op;
use shiftformer::ops::lmul_linear::LmulLinear;
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn sums_of_sums_equal_portable(
        rows in 1u32..6, k in 1u32..40, n in 1u32..9, seed in any::<u64>(), low in any::<bool>(),
        format in prop::sample::select(FloatFormat::ALL), dtype in prop::sample::select(vec![Dtype::I8, Dtype::I16]),
    ) {
        let (mut test, mut random) = (TestModel::default(), Random(seed));
        let bytes = format.bytes();
        let x = test.input(if bytes == 1 { Dtype::I8 } else { Dtype::I16 }, &[rows, k]);
        let y = test.output(dtype, &[rows, n]);
        let weights = test.blob(&random.bytes((n * k * bytes) as usize));
        let bias: Vec<i32> = (0..n).map(|_| random.between(-5000, 5000)).collect();
        let multipliers: Vec<i32> = (0..n).map(|_| random.between(0, 1 << 18)).collect();
        let op = LmulLinear {
            rows,
            k,
            n,
            format,
            base: (1 << format.exponent_bits()) - if low { 9 } else { 0 },
            top: 16,
            acc_shift: 1,
            zero_point: 5,
            weights,
            bias: test.blob_i32(bias),
            multipliers: test.blob_i32(multipliers),
        };
        test.op(Op::LmulLinear(op), &[Some(x)], y);
        let mut sample = || vec![random.bytes((rows * k * bytes) as usize)];
        assert_equal(&test, &[sample(), sample()]);
    }
}
