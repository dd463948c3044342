use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::i_layer_norm::ILayerNorm;
use shiftformer::tensor::Dtype;

fn check(rows: u32, n: u32, [from, to]: [Dtype; 2], shifts: [i32; 2], seed: u64, samples: &[Vec<u8>]) {
    let mut test = TestModel::default();
    let input = test.input(from, &[rows, n]);
    let y = test.output(to, &[rows, n]);
    let mut random = Random(seed);
    let bias = (0..n).flat_map(|_| {
        let value = (random.next() as i64 >> 10) >> random.between(0, 53);
        value.clamp(-(1 << 53), 1 << 53).to_le_bytes()
    });
    let bias = test.blob(&bias.collect::<Vec<u8>>());
    let ratios = (0..n).flat_map(|_| [random.between(-i32::MAX, i32::MAX), random.between(shifts[0], shifts[1])]);
    let ratios = test.blob_i32(ratios.collect::<Vec<_>>());
    test.op(Op::ILayerNorm(ILayerNorm { rows, n, bias, ratios }), &[Some(input)], y);
    let samples: Vec<_> = samples.iter().map(|s| vec![s.clone()]).collect();
    assert_equal(&test, &samples);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn i_layer_norm_equals_portable(
        rows in 1u32..5, n in 1u32..150, wide_in in any::<bool>(), wide_out in any::<bool>(),
        low in 0i32..64, seed in any::<u64>(), x in any_fill(),
    ) {
        let dtype = |wide| if wide { Dtype::I16 } else { Dtype::I8 };
        let types = [dtype(wide_in), dtype(wide_out)];
        let samples = [x, Fill::Min, Fill::Alternating, Fill::Random(3)].map(|x| fill(x, types[0], (rows * n) as usize));
        check(rows, n, types, [low, 63], seed, &samples);
    }
}

#[test]
fn outliers_and_the_widest_rows_are_exact() {
    for n in [1usize, 2, 3, 4096, 65536] {
        let samples: Vec<_> = [(32767, -32768), (-32768, 32767), (1, 0), (127, 0), (-9000, 9)]
            .iter()
            .map(|&(outlier, rest)| {
                (0..n).flat_map(|i| (if i == n / 2 { outlier } else { rest } as i16).to_le_bytes()).collect()
            })
            .collect();
        check(1, n as u32, [Dtype::I16, Dtype::I16], [30, 63], 5, &samples);
    }
}

#[test]
fn both_ends_of_the_shift_are_exact() {
    for shift in [0, 1, 31, 32, 33, 62, 63] {
        for n in [1u32, 3, 33] {
            let samples = [Fill::Min, Fill::Alternating, Fill::Random(7)].map(|x| fill(x, Dtype::I8, 2 * n as usize));
            check(2, n, [Dtype::I8, Dtype::I16], [shift, shift], 11, &samples);
        }
    }
}
