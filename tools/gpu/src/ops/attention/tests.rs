use crate::Sample;
use crate::testing::{Fill, Random, TestModel, any_fill, assert_equal, cases, fill};
use proptest::prelude::*;
use shiftformer::ops::Op;
use shiftformer::ops::attention::{
    Attention, AttentionExp, AttentionParams, AttentionScores, AttentionValues, BiasView, HeadView,
};
use shiftformer::tensor::Dtype;

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: u32,
    kv_heads: u32,
    kv_group: u32,
    n_q: u32,
    n_k: u32,
    head_dim: u32,
    v_dim: u32,
    wide: bool,
    /// Elements left free between rows.
    slack: u32,
    biases: u32,
    ratio_shift: u32,
    acc_shift: u32,
    fill: Fill,
}

/// Rows `[batch, rows, heads, width + slack]`, as a linear layer leaves them.
fn view(rows: u32, heads: u32, width: u32, slack: u32, offset: u32) -> HeadView {
    let head = width + slack;
    HeadView { offset, batch: rows * heads * head, head, row: heads * head }
}

fn params(case: Case) -> AttentionParams {
    let heads = case.kv_heads * case.kv_group;
    AttentionParams {
        batch: case.batch,
        heads,
        kv_group: case.kv_group,
        n_q: case.n_q,
        n_k: case.n_k,
        head_dim: case.head_dim,
        v_dim: case.v_dim,
        wide_exp: case.wide,
        acc_shift: case.acc_shift,
        score_multiplier: 1 << 27,
        ratio_m: 20_000,
        ratio_shift: case.ratio_shift,
        zero_point: 3,
        q: view(case.n_q, heads, case.head_dim, case.slack, case.slack),
        k: view(case.n_k, case.kv_heads, case.head_dim, case.slack, 0),
        v: view(case.n_k, case.kv_heads, case.v_dim, case.slack, case.slack),
        out: view(case.n_q, heads, case.v_dim, 0, 0),
        // One bias per pair, and one per key that all rows share.
        bias0: BiasView { offset: 1, batch: 0, head: case.n_q * case.n_k, row: case.n_k, column: 1 },
        bias1: BiasView { offset: 0, batch: case.n_k, head: 0, row: 0, column: 1 },
    }
}

/// Fused and unfused attention over the same operands.
fn model(case: Case) -> (TestModel, Vec<usize>) {
    let p = params(case);
    let mut test = TestModel::default();
    let heads = p.heads;
    let q_len = p.slack_len(&p.q, heads, case.n_q, case.head_dim);
    let k_len = p.slack_len(&p.k, case.kv_heads, case.n_k, case.head_dim);
    let v_len = p.slack_len(&p.v, case.kv_heads, case.n_k, case.v_dim);
    let lens = [q_len, k_len, v_len];
    let [q, k, v] = lens.map(|len| test.input(Dtype::I8, &[len]));
    let mut random = Random(77);
    let mut bias = |test: &mut TestModel, len: u32| {
        // Small values, large ones and the one that masks a key.
        let value = |r: &mut Random| match r.next() % 8 {
            0 => i16::MIN,
            1 => i16::MAX,
            _ => r.between(-600, 600) as i16,
        };
        let bytes: Vec<u8> = (0..len).flat_map(|_| value(&mut random).to_le_bytes()).collect();
        test.constant(Dtype::I16, &[len], &bytes)
    };
    let bias0 = (case.biases > 0).then(|| bias(&mut test, heads * case.n_q * case.n_k + 1));
    let bias1 = (case.biases > 1).then(|| bias(&mut test, case.batch * case.n_k));
    let out_len = [case.batch, case.n_q, heads, case.v_dim];
    let scores_shape = [case.batch, heads, case.n_q, case.n_k];
    let y = test.output(Dtype::I8, &out_len);
    let scores = test.output(Dtype::I32, &scores_shape);
    let exps = test.output(if case.wide { Dtype::U16 } else { Dtype::U8 }, &scores_shape);
    let z = test.output(Dtype::I8, &out_len);
    let operands = [Some(q), Some(k), Some(v), bias0, bias1];
    test.op(Op::Attention(Attention { attention: p }), &operands, y);
    test.op(Op::AttentionScores(AttentionScores { attention: p }), &operands, scores);
    test.op(Op::AttentionExp(AttentionExp { attention: p }), &[Some(scores)], exps);
    test.op(Op::AttentionValues(AttentionValues { attention: p }), &[Some(exps), None, Some(v)], z);
    (test, lens.map(|l| l as usize).to_vec())
}

trait SlackLen {
    fn slack_len(&self, view: &HeadView, heads: u32, rows: u32, width: u32) -> u32;
}

impl SlackLen for AttentionParams {
    fn slack_len(&self, view: &HeadView, heads: u32, rows: u32, width: u32) -> u32 {
        view.offset + (self.batch - 1) * view.batch + (heads - 1) * view.head + (rows - 1) * view.row + width
    }
}

fn check(case: Case) {
    let (test, lens) = model(case);
    let sample = |x: Fill| -> Sample { lens.iter().map(|&len| fill(x, Dtype::I8, len)).collect() };
    assert_equal(&test, &[sample(case.fill), sample(Fill::Min), sample(Fill::Random(6))]);
}

const BASE: Case = Case {
    batch: 1,
    kv_heads: 2,
    kv_group: 1,
    n_q: 5,
    n_k: 7,
    head_dim: 16,
    v_dim: 16,
    wide: false,
    slack: 0,
    biases: 0,
    ratio_shift: 14,
    acc_shift: 0,
    fill: Fill::Random(1),
};

prop_compose! {
    fn any_case()(
        batch in 1u32..3, kv_heads in 1u32..3, kv_group in 1u32..3, n_q in 1u32..8, n_k in 1u32..70, head_dim in 1u32..24,
        v_dim in 1u32..24, wide in any::<bool>(), slack in 0u32..4, biases in 0u32..3, ratio_shift in 10u32..=20,
        acc_shift in 0u32..6, fill in any_fill(),
    ) -> Case {
        Case { batch, kv_heads, kv_group, n_q, n_k, head_dim, v_dim, wide, slack, biases, ratio_shift, acc_shift, fill }
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn attention_equals_portable(case in any_case()) {
        check(case);
    }
}

#[test]
fn rows_beyond_one_chunk_are_exact() {
    for n_k in [512, 513, 1300] {
        check(Case { n_q: 2, n_k, biases: 1, ..BASE });
    }
}

#[test]
fn wide_values_take_several_blocks() {
    for n_k in [3, 600] {
        check(Case { n_q: 2, n_k, v_dim: 300, ..BASE });
        check(Case { n_q: 2, n_k, v_dim: 301, ..BASE });
    }
}

#[test]
fn long_query_rows_and_all_rests_of_a_block_are_exact() {
    for n_q in 1..=5 {
        check(Case { n_q, head_dim: 255 + n_q, slack: 1, ..BASE });
    }
}

#[test]
fn the_longest_row_of_wide_exponentials_does_not_overflow() {
    for fill in [Fill::Min, Fill::Max] {
        check(Case { n_q: 1, n_k: 514, wide: true, fill, ..BASE });
    }
}

#[test]
fn one_key_and_both_ends_of_the_ratio_are_exact() {
    for ratio_shift in [10, 20] {
        check(Case { n_q: 1, n_k: 1, head_dim: 1, v_dim: 1, kv_heads: 1, ratio_shift, fill: Fill::Max, ..BASE });
    }
}

#[test]
fn exponentials_beyond_one_count_as_one() {
    let mut test = TestModel::default();
    let case = Case { n_k: 514, wide: true, ..BASE };
    let attention = params(case);
    let rows = attention.heads * case.n_q * case.n_k;
    let values = attention.slack_len(&attention.v, case.kv_heads, case.n_k, case.v_dim);
    let exps = test.input(Dtype::U16, &[rows]);
    let v = test.input(Dtype::I8, &[values]);
    let y = test.output(Dtype::I8, &[case.n_q * attention.heads * case.v_dim]);
    test.op(Op::AttentionValues(AttentionValues { attention }), &[Some(exps), None, Some(v)], y);
    let sample = |x| vec![fill(x, Dtype::U16, rows as usize), fill(x, Dtype::I8, values as usize)];
    assert_equal(&test, &[sample(Fill::Max), sample(Fill::Min), sample(Fill::Random(9))]);
}

/// Shapes that cooperative matrices take where the device has them, and blocks of rows elsewhere.
#[test]
fn heads_of_whole_words_are_exact() {
    for wide in [false, true] {
        let case = Case { wide, acc_shift: 4, head_dim: 64, v_dim: 64, ..BASE };
        check(Case { n_q: 197, n_k: 197, ..case });
        check(Case { n_q: 113, n_k: 208, kv_heads: 1, kv_group: 2, head_dim: 48, v_dim: 32, ..case });
        check(Case { n_q: 16, n_k: 33, batch: 2, head_dim: 32, v_dim: 16, ..case });
        check(Case { n_q: 70, n_k: 209, biases: 2, ..case });
    }
}
