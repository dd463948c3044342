use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::dyadic_requant::DyadicRequant;
use shiftformer::tensor::Dtype;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: u32,
    n: u32,
    from: Dtype,
    to: Dtype,
    identity: Option<Dtype>,
    in_place: bool,
    per_column: bool,
    shifts: [i32; 2],
    seed: u64,
    x: Fill,
}

fn check(case: Case) {
    let Case { rows, n, from, to, .. } = case;
    let mut test = TestModel::default();
    let input = test.input(from, &[rows, n]);
    let identity = case.identity.map(|dtype| test.input(dtype, &[rows, n]));
    let y = match identity {
        Some(identity) if case.in_place && case.identity == Some(to) => test.alias(identity, to, &[rows, n]),
        _ => test.output(to, &[rows, n]),
    };
    let mut random = Random(case.seed);
    let mut ratio = || {
        // Trailing zeros make ties.
        let bits = random.between(0, 30);
        [random.between(-i32::MAX, i32::MAX) >> bits << bits, random.between(case.shifts[0], case.shifts[1])]
    };
    let [identity_multiplier, identity_shift] = ratio();
    let ratios: Vec<i32> = (0..if case.per_column { n } else { 1 }).flat_map(|_| ratio()).collect();
    let ratios = test.blob_i32(ratios.into_iter().map(|m| m.max(-i32::MAX)));
    let op = DyadicRequant {
        rows,
        n,
        ratios,
        identity_multiplier: identity_multiplier.max(-i32::MAX),
        identity_shift: identity_shift as u32,
    };
    test.op(Op::DyadicRequant(op), &[Some(input), identity], y);
    let sample = |x| {
        let identity = case.identity.map(|dtype| fill(x, dtype, (rows * n) as usize));
        [fill(x, from, (rows * n) as usize)].into_iter().chain(identity).collect::<Vec<_>>()
    };
    assert_equal(&test, &[sample(case.x), sample(Fill::Min), sample(Fill::Max), sample(Fill::Random(2))]);
}

fn any_dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32])
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn dyadic_requantization_equals_portable(
        rows in 1u32..5, n in 1u32..40, from in any_dtype(), wide in any::<bool>(), identity in prop::option::of(any_dtype()),
        in_place in any::<bool>(), per_column in any::<bool>(), low in 0i32..64, seed in any::<u64>(), x in any_fill(),
    ) {
        let to = if wide { Dtype::I16 } else { Dtype::I8 };
        check(Case { rows, n, from, to, identity, in_place, per_column, shifts: [low, 63], seed, x });
    }
}

#[test]
fn both_ends_of_the_shift_are_exact() {
    for shift in [0, 1, 31, 32, 33, 62, 63] {
        let shifts = [shift, shift];
        let identity = Some(Dtype::I16);
        check(Case {
            rows: 2,
            n: 33,
            from: Dtype::I32,
            to: Dtype::I16,
            identity,
            in_place: true,
            per_column: true,
            shifts,
            seed: 3,
            x: Fill::Random(1),
        });
    }
}
