use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::layer_norm::LayerNorm;
use shiftformer::tensor::Dtype;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: u32,
    n: u32,
    rms: bool,
    eps: u64,
    from: Dtype,
    to: Dtype,
    in_place: bool,
    gamma: i32,
}

fn check(case: Case, rows: &[Vec<u8>]) {
    let Case { rows: count, n, rms, eps, from, to, in_place, gamma } = case;
    let mut test = TestModel::default();
    let x = test.input(from, &[count, n]);
    let y = if in_place { test.alias(x, to, &[count, n]) } else { test.output(to, &[count, n]) };
    let mut random = Random(u64::from(n));
    let gammas = test.blob_i32((0..n).map(|_| random.between(-gamma, gamma)));
    let betas = test.blob_i32((0..n).map(|_| random.between(-(1 << 14), 1 << 14)));
    test.op(Op::LayerNorm(LayerNorm { rows: count, n, rms, eps, gamma: gammas, beta: betas }), &[Some(x)], y);
    let samples: Vec<_> = rows.iter().map(|row| vec![row.clone()]).collect();
    assert_equal(&test, &samples);
}

const BASE: Case =
    Case { rows: 3, n: 64, rms: false, eps: 0, from: Dtype::I16, to: Dtype::I8, in_place: false, gamma: i32::MAX };

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn layer_norm_equals_portable(
        rows in 1u32..6, n in 1u32..200, rms in any::<bool>(), eps in prop_oneof![0u64..3, 0u64..1 << 57],
        wide_in in any::<bool>(), wide_out in any::<bool>(), in_place in any::<bool>(), x in any_fill(), bits in 10u32..31,
    ) {
        let dtype = |wide| if wide { Dtype::I16 } else { Dtype::I8 };
        let (from, to) = (dtype(wide_in), dtype(wide_out));
        let in_place = in_place && wide_in && wide_out;
        let gamma = ((1u32 << bits) - 1) as i32;
        let sample = |x| fill(x, from, (rows * n) as usize);
        let samples = [sample(x), sample(Fill::Min), sample(Fill::Alternating), sample(Fill::Random(3))];
        check(Case { rows, n, rms, eps, from, to, in_place, gamma }, &samples);
    }
}

/// Rows of zeros with one other value: the smallest and the largest variance there is.
fn outlier(n: usize, at: usize, value: i16) -> Vec<u8> {
    (0..n).flat_map(|i| if i == at { value } else { 0 }.to_le_bytes()).collect()
}

#[test]
fn outliers_of_all_sizes_are_exact() {
    for n in [1u32, 2, 3, 64, 4096] {
        let rows: Vec<_> = (0..16)
            .flat_map(|bit| [1i16 << bit.min(14), -(1 << bit.min(14)), i16::MIN, i16::MAX])
            .map(|value| outlier(n as usize, n as usize / 2, value))
            .collect();
        for rms in [false, true] {
            check(Case { rows: 1, n, rms, to: Dtype::I16, ..BASE }, &rows);
            check(Case { rows: 1, n, rms, gamma: 1 << 20, ..BASE }, &rows);
        }
    }
}

#[test]
fn constant_rows_are_exact_with_and_without_eps() {
    let rows: Vec<_> = [0i16, 1, -1, i16::MIN, i16::MAX].map(|v| v.to_le_bytes().repeat(3 * 64)).to_vec();
    for eps in [0, 1, 12345, 1 << 57] {
        check(Case { eps, ..BASE }, &rows);
        check(Case { eps, rms: true, ..BASE }, &rows);
    }
}
