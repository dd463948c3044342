use super::*;
use crate::backend::Host;
use shiftformer::format::{OpRecord, Place, Profile};
use shiftformer::kernels::Portable;
use shiftformer::ops::Extent;
use shiftformer::ops::add::Add;
use shiftformer::ops::attention::{Attention, BiasView, HeadView};
use shiftformer::ops::conv2d::Window;
use shiftformer::ops::linear::Linear;
use shiftformer::ops::matmul::MatMul;
use shiftformer::ops::mul::Mul;
use shiftformer::ops::pool::Pool2d;
use shiftformer::ops::reduce_mean::ReduceMean;
use shiftformer::ops::requant::Requant;
use shiftformer::ops::softmax::Softmax;
use shiftformer_convert::model_file::ModelFile;

/// A model of one operator under construction.
#[derive(Default)]
struct Single {
    inputs: Vec<(Dtype, Vec<i32>)>,
    weights: Vec<u8>,
}

impl Single {
    fn of(inputs: &[(Dtype, &[i32])]) -> Self {
        Self { inputs: inputs.iter().map(|&(d, v)| (d, v.to_vec())).collect(), weights: Vec::new() }
    }

    fn blob(&mut self, bytes: &[u8]) -> Blob {
        self.weights.resize(align_up(self.weights.len()), 0);
        let blob = Blob { offset: self.weights.len() as u32, bytes: bytes.len() as u32 };
        self.weights.extend_from_slice(bytes);
        blob
    }

    fn words(&mut self, words: &[i32]) -> Blob {
        self.blob(bytemuck::cast_slice(words))
    }

    /// The accumulator of element `element` of `op`, whose output has `len` elements of `dtype`.
    fn read(self, op: Op, (dtype, len): (Dtype, u32), element: usize) -> (i64, &'static str) {
        let mut arena_bytes = 0;
        let lens = self.inputs.iter().map(|(d, v)| (*d, v.len() as u32)).chain([(dtype, len)]);
        let tensors: Vec<TensorRecord> = lens
            .map(|(dtype, len)| {
                let dims = [len, 1, 1, 1, 1, 1];
                let offset = arena_bytes as u32;
                let record =
                    TensorRecord { dtype, place: Place::Arena, rank: 1, window: 0, offset, dims, zero_point: 0 };
                arena_bytes += align_up(record.bytes());
                record
            })
            .collect();
        let (count, scratch) = (self.inputs.len() as u16, align_up(op.scratch_bytes() as usize));
        let mut inputs = [NO_TENSOR; 6];
        inputs.iter_mut().zip(0..count).for_each(|(to, from)| *to = from);
        let record = OpRecord {
            chained: false,
            by_rows: 0,
            kind: op.kind() as u16,
            inputs,
            output: count,
            scratch_offset: arena_bytes as u32,
            scratch_bytes: scratch as u32,
            params_offset: 0,
            params_words: 0,
        };
        let parts = ModelParts {
            records: vec![record],
            ops: vec![op],
            tensors,
            weights: self.weights,
            inputs: (0..count).collect(),
            outputs: vec![count],
            receipts: Vec::new(),
            annotations: None,
            profile: Profile::Shift,
            arena_bytes: arena_bytes + scratch,
            state: Default::default(),
            text: Vec::new(),
        };
        let model = ModelFile::from_bytes(&parts.write().unwrap()).unwrap();
        let side = BackendRun::new("portable", &model, |m| Ok(Box::new(Host::<Portable>::new("portable", m))));
        let bytes = |(d, v): &(Dtype, Vec<i32>)| v.iter().flat_map(|v| v.to_le_bytes()[..d.bytes()].to_vec()).collect();
        let operands: Sample = self.inputs.iter().map(bytes).collect();
        let found = read(&side, 0, &operands, element).unwrap().expect("there is one");
        (found.value, found.meaning)
    }
}

const DIMS: [u32; 6] = [1, 1, 1, 1, 1, 2];

#[test]
fn sums_of_layers_are_read_exactly() {
    // Channel 2 of four: weights 1 and -128 at K 0 and 1.
    let mut weights = [0u8; 64];
    weights[32..34].copy_from_slice(&[1, 0x80]);
    for bias in [0, 5, 70_000, -1_000_000] {
        let mut single = Single::of(&[(Dtype::I8, &[7, -128])]);
        let dense = Dense {
            format: shiftformer::weights::WeightFormat::I8,
            acc_shift: 0,
            zero_point: -3,
            weights: single.blob(&weights),
            bias: single.words(&[1, 2, bias, 4]),
            multipliers: single.words(&[1 << 20; 4]),
            lut: Blob::NONE,
        };
        let op = Op::Linear(Linear { rows: 1, k: 2, n: 4, residual_shift: 0, dense });
        assert_eq!(single.read(op, (Dtype::I8, 4), 2), (7 + 128 * 128 + i64::from(bias), "sum"));
    }
}

#[test]
fn sums_of_elements_are_read_exactly() {
    let view = Extent::contiguous(DIMS);
    let single = Single::of(&[(Dtype::I16, &[0, -30_000]), (Dtype::I16, &[0, 25_000])]);
    let op = Add { dims: DIMS, a: view, b: view, ma: 9_000, mb: -8_000, bias: 77, shift: 20 };
    let expected = -30_000 * 9_000 - 25_000 * 8_000 + 77;
    assert_eq!(single.read(Op::Add(op), (Dtype::I8, 2), 1), (expected, "sum"));
    let single = Single::of(&[(Dtype::I16, &[-32768, 5, -32768, 6, -32767, 7])]);
    let op = ReduceMean { outer: 1, r: 3, inner: 2, bias: -4, acc_shift: 0, multiplier: 1 << 30, zero_point: 9 };
    assert_eq!(single.read(Op::ReduceMean(op), (Dtype::I16, 2), 0), (-32768 * 3 + 1 - 4, "sum"));
}

#[test]
fn sums_of_products_are_read_exactly() {
    let single = Single::of(&[(Dtype::I8, &[1, 2, -128, 4]), (Dtype::I8, &[5, 6, -128, 8])]);
    let op = MatMul {
        batch: [1; 3],
        m: 2,
        n: 2,
        k: 2,
        a_batch: [0; 3],
        a_row: 2,
        b_batch: [0; 3],
        b_row: 2,
        b_transposed: true,
        acc_shift: 3,
        multiplier: 1 << 20,
        zero_point: 1,
    };
    assert_eq!(single.read(Op::MatMul(op), (Dtype::I8, 4), 3), (128 * 128 + 4 * 8, "sum"));
}

#[test]
fn products_and_differences_are_read_to_their_leading_bits() {
    let view = Extent::contiguous(DIMS);
    let mul = |zero_a, zero_b| {
        let (acc_shift, multiplier, zero_point) = (0, 1 << 20, 7);
        Op::Mul(Mul { dims: DIMS, a: view, b: view, zero_a, zero_b, acc_shift, multiplier, zero_point })
    };
    let single = Single::of(&[(Dtype::I8, &[0, -128]), (Dtype::I8, &[0, 127])]);
    assert_eq!(single.read(mul(3, -5), (Dtype::I8, 2), 1), (-131 * 132, "product"));
    let single = Single::of(&[(Dtype::I16, &[0, 30_000]), (Dtype::I16, &[0, -30_001])]);
    let (value, _) = single.read(mul(0, 0), (Dtype::I16, 2), 1);
    assert!((value + 30_000 * 30_001).abs() <= 1 << 15, "{value}");
    let requant = Op::Requant(Requant { len: 1, zero_in: -101, acc_shift: 0, multiplier: 3, zero_out: 4 });
    let read = |x: i32| Single::of(&[(Dtype::I16, &[x])]).read(requant, (Dtype::I8, 1), 0).0;
    assert_eq!((read(-9), read(32767)), (92, 32868));
    let mut single = Single::of(&[(Dtype::I16, &[1000, 1001])]);
    let ratios = single.words(&[3, 1]);
    let op = DyadicRequant { rows: 1, n: 2, ratios, identity_multiplier: 0, identity_shift: 0 };
    assert_eq!(single.read(Op::DyadicRequant(op), (Dtype::I8, 2), 1), (1502, "rounded sum"));
}

#[test]
fn sums_of_windows_are_read_to_their_leading_bits() {
    let window = Window {
        in_h: 2,
        in_w: 2,
        out_h: 1,
        out_w: 1,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 1,
        stride_w: 1,
        pad_top: 0,
        pad_left: 0,
        dilation_h: 1,
        dilation_w: 1,
        channel_stride: 1,
        row_stride: 2,
        column_stride: 1,
        pad_value: 3,
    };
    let mut single = Single::of(&[(Dtype::I8, &[100, 100, -20, 2])]);
    let multipliers = single.words(&[1 << 28; 4]);
    let op = Pool2d { window, channels: 1, acc_shift: 0, zero_point: 5, multipliers };
    // 182 - 4 * 3 = 170 has one bit more than a result.
    assert_eq!(single.read(Op::Pool2d(op), (Dtype::I8, 1), 0), (170, "sum"));
}

#[test]
fn normalized_values_are_read() {
    let mut single = Single::of(&[(Dtype::I8, &[1, -1, 1, -1])]);
    let (gamma, beta) = (single.words(&[1 << 20; 4]), single.words(&[128; 4]));
    let op = LayerNorm { rows: 1, n: 4, rms: false, eps: 0, gamma, beta };
    let (value, _) = single.read(Op::LayerNorm(op), (Dtype::I8, 4), 1);
    assert!((value + (1 << 15)).abs() <= 1, "{value}");
    for bias in [0, 123_456_789_012_345, -(1i64 << 53), 511] {
        let mut single = Single::of(&[(Dtype::I8, &[9; 2])]);
        let bias_blob = single.blob(bytemuck::cast_slice(&[bias; 2]));
        let ratios = single.words(&[1, 40, 1, 40]);
        let op = ILayerNorm { rows: 1, n: 2, bias: bias_blob, ratios };
        // A row without variance has only its bias.
        assert_eq!(single.read(Op::ILayerNorm(op), (Dtype::I8, 2), 0), (bias, "normalized value with bias"));
    }
    let single = Single::of(&[(Dtype::I8, &[4; 4])]);
    let op = Softmax { rows: 1, n: 4, acc_shift: 0, multiplier: 1 << 20 };
    assert_eq!(single.read(Op::Softmax(op), (Dtype::I8, 4), 0), (1 << 13, "probability x 2^15"));
}

#[test]
fn weighted_means_are_read() {
    let view = HeadView { offset: 0, batch: 0, head: 0, row: 1 };
    let bias = BiasView { offset: 0, batch: 0, head: 0, row: 0, column: 0 };
    let op = AttentionParams {
        batch: 1,
        heads: 1,
        kv_group: 1,
        n_q: 1,
        n_k: 2,
        head_dim: 1,
        v_dim: 1,
        wide_exp: false,
        acc_shift: 0,
        score_multiplier: 1 << 20,
        ratio_m: 20_000,
        ratio_shift: 15,
        zero_point: 3,
        q: view,
        k: view,
        v: view,
        out: view,
        bias0: bias,
        bias1: bias,
    };
    for (values, mean) in [([5, 2], 56), ([100, 90], 95 * 16)] {
        let single = Single::of(&[(Dtype::I8, &[1]), (Dtype::I8, &[1, 1]), (Dtype::I8, &values)]);
        let read = single.read(Op::Attention(Attention { attention: op }), (Dtype::I8, 1), 0);
        assert_eq!(read, (mean, "weighted mean x 16"));
    }
}
