use crate::testing::{Random, TestModel, assert_equal, cases};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::lookup_linear::{LookupLinear, ONE};
use shiftformer::tensor::Dtype;

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn look_ups_equal_portable(
        rows in 1u32..6, chunks in 1u32..10, chunk in 1u32..9, n in 1u32..11, x_zero in -128i32..128, seed in any::<u64>(),
        dtype in prop::sample::select(vec![Dtype::I8, Dtype::I16]),
    ) {
        let (mut test, mut random, k) = (TestModel::default(), Random(seed), chunks * chunk);
        let x = test.input(Dtype::I8, &[rows, k]);
        let y = test.output(dtype, &[rows, n]);
        let factors: Vec<u8> =
            (0..256).flat_map(|_| (random.between(ONE as i32 / 2, ONE as i32) as u16).to_le_bytes()).collect();
        let tables = random.bytes(((chunks * n.next_multiple_of(4)) << chunk) as usize);
        let bias: Vec<i32> = (0..n).map(|_| random.between(-5000, 5000)).collect();
        let multipliers: Vec<i32> = (0..n).map(|_| random.between(0, 1 << 24)).collect();
        let op = LookupLinear {
            rows,
            k,
            n,
            chunk,
            x_zero,
            acc_shift: 3,
            zero_point: 5,
            factors: test.blob(&factors),
            tables: test.blob(&tables),
            bias: test.blob_i32(bias),
            multipliers: test.blob_i32(multipliers),
        };
        test.op(Op::LookupLinear(op), &[Some(x)], y);
        let mut sample = || vec![random.bytes((rows * k) as usize)];
        assert_equal(&test, &[sample(), sample()]);
    }
}
