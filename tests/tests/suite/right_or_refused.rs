//! Kinds of graphs that tempt an integer program into a wrong answer: each against its right value, computed here.

use shiftformer::kernels::Native;
use shiftformer_convert::backend::{Backend, Host};
use shiftformer_convert::convert::quality::{OutputQuality, worst_output};
use shiftformer_convert::convert::{ConvertError, ConvertOptions, Converted, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Binary, Data, DataType, FakeQuant, Graph, Op, Reduce, TensorId, Unary, Window};
use shiftformer_convert::model_file::{ModelFile, Values};

/// Numbers between -1 and 1 that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    fn below(&mut self, limit: u64) -> i64 {
        ((f64::from(self.next()) + 1.0) / 2.0 * limit as f64) as i64
    }

    fn values(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * size).collect()
    }
}

/// A graph under construction.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn input(&mut self, name: &str, shape: &[usize], dtype: DataType) -> TensorId {
        let id = self.0.add_tensor(name, shape.to_vec(), dtype);
        self.0.inputs.push(id);
        id
    }

    fn floats(&mut self, shape: &[usize], values: &[f32]) -> TensorId {
        let name = format!("c{}", self.0.tensors.len());
        self.0.add_constant(name, shape.to_vec(), Data::Float(values.to_vec()))
    }

    fn node(&mut self, op: Op, inputs: &[TensorId], shape: &[usize]) -> TensorId {
        self.typed(op, inputs, shape, DataType::Float)
    }

    fn typed(&mut self, op: Op, inputs: &[TensorId], shape: &[usize], dtype: DataType) -> TensorId {
        let name = format!("n{}", self.0.nodes.len());
        self.0.add_node(&name, op, inputs.to_vec(), shape.to_vec(), dtype)
    }

    fn converted(mut self, outputs: &[TensorId], samples: &[Vec<Values>]) -> Result<Converted, ConvertError> {
        self.0.outputs = outputs.to_vec();
        convert(&fuse(self.0), samples, &ConvertOptions::default(), &mut |_| {})
    }

    /// Decibels that the integer program keeps of `right` on `samples`.
    fn keeps(self, outputs: &[TensorId], samples: &[Vec<Values>], right: impl Fn(&[Values]) -> Vec<f32>) -> f64 {
        let converted = self.converted(outputs, samples).unwrap();
        let kept = decibels(&run(&converted, samples), samples, right);
        // `--nocapture` shows what the bounds are set from.
        println!("{}: {kept:.1} dB", std::thread::current().name().unwrap_or_default());
        kept
    }
}

fn run(converted: &Converted, samples: &[Vec<Values>]) -> Vec<Vec<f32>> {
    let model = ModelFile::from_bytes(&converted.file).unwrap();
    let encode = |sample: &Vec<Values>| sample.iter().enumerate().map(|(i, v)| model.encode(i, v).unwrap()).collect();
    let inputs: Vec<Vec<Vec<u8>>> = samples.iter().map(encode).collect();
    let traces = Host::<Native>::new("native", &model).run(&inputs).unwrap();
    traces.iter().map(|trace| model.decode(0, &trace.outputs[0])).collect()
}

fn decibels(got: &[Vec<f32>], samples: &[Vec<Values>], right: impl Fn(&[Values]) -> Vec<f32>) -> f64 {
    let (mut signal, mut noise) = (0.0f64, 0.0f64);
    for (sample, got) in samples.iter().zip(got) {
        let want = right(sample);
        assert_eq!(want.len(), got.len());
        for (&want, &got) in want.iter().zip(got) {
            signal += f64::from(want).powi(2);
            noise += f64::from(want - got).powi(2);
        }
    }
    10.0 * (signal.max(1e-30) / noise.max(1e-30)).log10()
}

fn real(values: &Values) -> Vec<f32> {
    values.to_real(None)
}

fn float_samples(count: usize, len: usize, size: f32) -> Vec<Vec<Values>> {
    let mut random = Random(7);
    (0..count).map(|_| vec![Values::Float(random.values(len, size))]).collect()
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = row.iter().map(|v| (v - top).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

#[test]
fn rms_norm_subtracts_the_zero_point_of_its_operand() {
    let mut b = Builder::default();
    let x = b.input("x", &[4, 16], DataType::Float);
    let quant = FakeQuant { scale: vec![0.02], zero_point: vec![90], axis: 0, range: (0, 255) };
    let q = b.node(Op::FakeQuant(quant), &[x], &[4, 16]);
    let y = b.node(Op::RmsNorm { eps: 1e-5 }, &[q], &[4, 16]);
    let right = |s: &[Values]| {
        let x: Vec<f32> =
            real(&s[0]).iter().map(|v| ((v / 0.02).round() + 90.0).clamp(0.0, 255.0) * 0.02 - 1.8).collect();
        let row = |r: &[f32]| {
            let rms = (r.iter().map(|v| v * v).sum::<f32>() / 16.0 + 1e-5).sqrt();
            r.iter().map(|v| v / rms).collect::<Vec<_>>()
        };
        x.chunks(16).flat_map(row).collect()
    };
    let kept = b.keeps(&[y], &float_samples(20, 64, 1.5), right);
    assert!(kept > 88.0, "{kept}");
}

#[test]
fn integer_inputs_keep_their_values() {
    // Element type, largest value, factor and zero point of a DequantizeLinear.
    let kinds =
        [(Some((0, 255)), 255, 0.02, 128.0), (Some((-32768, 32767)), 20000, 0.001, 0.0), (None, 900, 0.01, 0.0)];
    for (range, most, factor, zero) in kinds {
        let mut b = Builder::default();
        let x = b.input("x", &[1, 24], DataType::Int);
        b.0.input_ranges = vec![range];
        let cast = b.node(Op::Unary(Unary::Cast), &[x], &[1, 24]);
        let (z, f) = (b.floats(&[], &[zero]), b.floats(&[], &[factor]));
        let moved = b.node(Op::Binary(Binary::Sub), &[cast, z], &[1, 24]);
        let y = b.node(Op::Binary(Binary::Mul), &[moved, f], &[1, 24]);
        let mut random = Random(3);
        let sample = |r: &mut Random| vec![Values::Int((0..24).map(|_| r.below(most + 1)).collect())];
        let samples: Vec<_> = (0..20).map(|_| sample(&mut random)).collect();
        let kept = b.keeps(&[y], &samples, |s| real(&s[0]).iter().map(|v| (v - zero) * factor).collect());
        assert!(kept > 200.0, "{range:?}: {kept}");
    }
}

#[test]
fn comparisons_of_whole_numbers_are_exact() {
    for kind in [Binary::Greater, Binary::LessOrEqual, Binary::Equal] {
        let mut b = Builder::default();
        let x = b.input("x", &[1, 32], DataType::Int);
        let limit = b.0.add_constant("limit", vec![], Data::Int(vec![200]));
        let y = b.typed(Op::Binary(kind), &[x, limit], &[1, 32], DataType::Bool);
        let samples: Vec<Vec<Values>> = (0..20)
            .map(|s| {
                vec![Values::Int((0..32).map(|i| 185 + (s * 5 + i) % 30 + if i == 3 { 9000 } else { 0 }).collect())]
            })
            .collect();
        let holds = |v: f32| match kind {
            Binary::Greater => v > 200.0,
            Binary::LessOrEqual => v <= 200.0,
            _ => v == 200.0,
        };
        let right = |s: &[Values]| real(&s[0]).iter().map(|&v| f32::from(u8::from(holds(v)))).collect();
        assert!(b.keeps(&[y], &samples, right) > 200.0, "{kind:?}");
    }
}

#[test]
fn ids_are_looked_up_and_compared() {
    let mut b = Builder::default();
    let ids = b.input("ids", &[1, 8], DataType::Int);
    let table: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
    let t = b.floats(&[50, 1], &table);
    let looked = b.node(Op::Gather { axis: 0 }, &[t, ids], &[1, 8, 1]);
    let pad = b.0.add_constant("pad", vec![], Data::Int(vec![0]));
    let is_pad = b.typed(Op::Binary(Binary::Equal), &[ids, pad], &[1, 8], DataType::Bool);
    let cast = b.node(Op::Unary(Unary::Cast), &[is_pad], &[1, 8]);
    let column = b.node(Op::Reshape, &[cast], &[1, 8, 1]);
    let y = b.node(Op::Binary(Binary::Sub), &[looked, column], &[1, 8, 1]);
    let mut random = Random(5);
    let sample = |r: &mut Random| vec![Values::Int((0..8).map(|_| r.below(50) * r.below(2)).collect())];
    let samples: Vec<_> = (0..20).map(|_| sample(&mut random)).collect();
    let value = |v: &f32| (v * 0.7).sin() - f32::from(u8::from(*v == 0.0));
    let kept = b.keeps(&[y], &samples, |s| real(&s[0]).iter().map(value).collect());
    assert!(kept > 52.0, "{kept}");
}

#[test]
fn an_id_outside_its_table_is_named() {
    let mut b = Builder::default();
    let ids = b.input("ids", &[1, 2], DataType::Int);
    let t = b.floats(&[4, 1], &[0.5, -0.5, 1.0, -1.0]);
    let y = b.node(Op::Gather { axis: 0 }, &[t, ids], &[1, 2, 1]);
    let samples = [vec![Values::Int(vec![0, -4])], vec![Values::Int(vec![1, 4])]];
    let error = b.converted(&[y], &samples).unwrap_err().to_string();
    assert!(error.contains("sample 1: input `ids` holds 4; the table") && error.contains("has 4 rows"), "{error}");
}

#[test]
fn constants_beyond_the_range_of_their_neighbours_keep_their_values() {
    let mut b = Builder::default();
    let x = b.input("x", &[1, 6, 4], DataType::Float);
    let class = b.floats(&[1, 1, 4], &[30.0, -12.0, 7.0, 1.0]);
    let joined = b.node(Op::Concat { axis: 1 }, &[class, x], &[1, 7, 4]);
    let w = b.floats(&[4, 4], &Random(2).values(16, 0.5));
    let y = b.node(Op::Linear, &[joined, w], &[1, 7, 4]);
    let weights = Random(2).values(16, 0.5);
    let right = |s: &[Values]| {
        let rows = [vec![30.0, -12.0, 7.0, 1.0], real(&s[0])].concat();
        let product = |row: &[f32]| -> Vec<f32> {
            weights.chunks(4).map(|w| w.iter().zip(row).map(|(a, b)| a * b).sum()).collect()
        };
        rows.chunks(4).flat_map(product).collect()
    };
    let kept = b.keeps(&[y], &float_samples(20, 24, 2.0), right);
    assert!(kept > 38.0, "{kept}");
    for fill in [200.0f32, -23.0] {
        let mut b = Builder::default();
        let x = b.input("x", &[1, 8], DataType::Float);
        let y = b.node(Op::Pad { before: vec![0, 2], after: vec![0, 1], value: fill }, &[x], &[1, 11]);
        let padded = |s: &[Values]| [vec![fill; 2], real(&s[0]), vec![fill]].concat();
        let kept = b.keeps(&[y], &float_samples(20, 8, 3.0), padded);
        assert!(kept > 90.0, "{fill}: {kept}");
    }
}

/// Row 0 of a causal 6 x 6 mask shows one key, row 5 all of them.
fn causal(hidden: f32) -> Vec<f32> {
    (0..36).map(|i| if i % 6 > i / 6 { hidden } else { 0.0 }).collect()
}

#[test]
fn constant_masks_of_any_size_hide_keys() {
    for hidden in [f32::NEG_INFINITY, f32::MIN, -1e9, -1e4] {
        let mut b = Builder::default();
        let x = b.input("x", &[6, 6], DataType::Float);
        let (cap, inverse) = (b.floats(&[], &[5.0]), b.floats(&[], &[0.2]));
        let small = b.node(Op::Binary(Binary::Mul), &[x, inverse], &[6, 6]);
        let tanh = b.node(Op::Unary(Unary::Tanh), &[small], &[6, 6]);
        let capped = b.node(Op::Binary(Binary::Mul), &[tanh, cap], &[6, 6]);
        let mask = b.floats(&[6, 6], &causal(hidden));
        let sum = b.node(Op::Binary(Binary::Add), &[capped, mask], &[6, 6]);
        let y = b.node(Op::Softmax, &[sum], &[6, 6]);
        let right = |s: &[Values]| {
            let scores = real(&s[0]).into_iter().map(|v| 5.0 * (v / 5.0).tanh());
            let masked: Vec<f32> = scores.zip(causal(-1e4)).map(|(v, m)| v + m).collect();
            masked.chunks(6).flat_map(softmax).collect()
        };
        let kept = b.keeps(&[y], &float_samples(20, 36, 6.0), right);
        assert!(kept > 46.0, "{hidden}: {kept}");
    }
}

#[test]
fn masks_may_be_inputs() {
    for hidden in [f32::NEG_INFINITY, f32::MIN, -1e9, -1e4] {
        let mut b = Builder::default();
        let (x, mask) = (b.input("x", &[4, 6], DataType::Float), b.input("mask", &[1, 6], DataType::Float));
        let sum = b.node(Op::Binary(Binary::Add), &[x, mask], &[4, 6]);
        let y = b.node(Op::Softmax, &[sum], &[4, 6]);
        let mut random = Random(11);
        let sample = |r: &mut Random| {
            let mask = (0..6).map(|i| if i > 0 && r.next() > 0.0 { hidden } else { 0.0 }).collect();
            vec![Values::Float(r.values(24, 4.0)), Values::Float(mask)]
        };
        let samples: Vec<_> = (0..20).map(|_| sample(&mut random)).collect();
        let right = |s: &[Values]| {
            let mask = real(&s[1]);
            let masked: Vec<f32> =
                real(&s[0]).iter().enumerate().map(|(i, v)| if mask[i % 6] < 0.0 { -1e4 } else { *v }).collect();
            masked.chunks(6).flat_map(softmax).collect()
        };
        let kept = b.keeps(&[y], &samples, right);
        assert!(kept > 62.0, "{hidden}: {kept}");
    }
}

#[test]
fn rows_of_hidden_keys_are_those_of_single_precision() {
    // Beside -1e4 the scores still differ, beside the others they are all the same.
    for hidden in [f32::MIN, -1e9, -1e5, -1e4] {
        for constant in [false, true] {
            let mut random = Random(43);
            let mask_of = |r: &mut Random| -> Vec<f32> {
                let all = r.below(4) as usize;
                (0..24).map(|i| if i / 6 == all || i % 6 > 0 && r.next() > 0.0 { hidden } else { 0.0 }).collect()
            };
            let fixed = mask_of(&mut random);
            let mut b = Builder::default();
            let x = b.input("x", &[4, 6], DataType::Float);
            let mask = if constant { b.floats(&[4, 6], &fixed) } else { b.input("mask", &[4, 6], DataType::Float) };
            let sum = b.node(Op::Binary(Binary::Add), &[x, mask], &[4, 6]);
            let y = b.node(Op::Softmax, &[sum], &[4, 6]);
            let sample = |r: &mut Random| {
                let x = Values::Float(r.values(24, 4.0));
                if constant { vec![x] } else { vec![x, Values::Float(mask_of(r))] }
            };
            let samples: Vec<_> = (0..24).map(|_| sample(&mut random)).collect();
            let right = |s: &[Values]| {
                let mask = s.get(1).map_or_else(|| fixed.clone(), real);
                let sums: Vec<f32> = real(&s[0]).iter().zip(&mask).map(|(x, m)| x + m).collect();
                sums.chunks(6).flat_map(softmax).collect()
            };
            let kept = b.keeps(&[y], &samples, right);
            assert!(kept > 57.0, "{hidden}, constant {constant}: {kept}");
        }
    }
}

#[test]
fn scores_may_be_chosen_from() {
    let mut b = Builder::default();
    let x = b.input("x", &[4, 8], DataType::Float);
    let twice = b.node(Op::Binary(Binary::Add), &[x, x], &[4, 8]);
    let (p, q) =
        (b.node(Op::Unary(Unary::Sigmoid), &[x], &[4, 8]), b.node(Op::Unary(Unary::Sigmoid), &[twice], &[4, 8]));
    let half = b.floats(&[], &[0.5]);
    let yes = b.typed(Op::Binary(Binary::GreaterOrEqual), &[p, half], &[4, 8], DataType::Bool);
    let y = b.node(Op::Where, &[yes, q, p], &[4, 8]);
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    let right = |s: &[Values]| {
        real(&s[0]).into_iter().map(|v| if sigmoid(v) >= 0.5 { sigmoid(2.0 * v) } else { sigmoid(v) }).collect()
    };
    let kept = b.keeps(&[y], &float_samples(24, 32, 5.0), right);
    assert!(kept > 48.0, "{kept}");
}

#[test]
fn masks_may_be_computed_from_flags() {
    for hidden in [f32::MIN, -1e9, -1e4] {
        let mut b = Builder::default();
        let (x, mask) = (b.input("x", &[4, 6], DataType::Float), b.input("mask", &[1, 6], DataType::Int));
        let (one, factor) = (b.floats(&[], &[1.0]), b.floats(&[], &[hidden]));
        let cast = b.node(Op::Unary(Unary::Cast), &[mask], &[1, 6]);
        let inverse = b.node(Op::Binary(Binary::Sub), &[one, cast], &[1, 6]);
        let bias = b.node(Op::Binary(Binary::Mul), &[inverse, factor], &[1, 6]);
        let sum = b.node(Op::Binary(Binary::Add), &[x, bias], &[4, 6]);
        let y = b.node(Op::Softmax, &[sum], &[4, 6]);
        let mut random = Random(13);
        let sample = |r: &mut Random| {
            let mask = (0..6).map(|i| i64::from(i == 0 || r.next() > 0.0)).collect();
            vec![Values::Float(r.values(24, 4.0)), Values::Int(mask)]
        };
        let samples: Vec<_> = (0..20).map(|_| sample(&mut random)).collect();
        let right = |s: &[Values]| {
            let mask = real(&s[1]);
            let masked: Vec<f32> =
                real(&s[0]).iter().enumerate().map(|(i, v)| if mask[i % 6] == 0.0 { -1e4 } else { *v }).collect();
            masked.chunks(6).flat_map(softmax).collect()
        };
        let kept = b.keeps(&[y], &samples, right);
        assert!(kept > 61.0, "{hidden}: {kept}");
    }
}

#[test]
fn flags_combine_exactly() {
    for kind in [Binary::And, Binary::Or, Binary::Xor] {
        let mut b = Builder::default();
        let (p, q) = (b.input("p", &[8], DataType::Bool), b.input("q", &[8], DataType::Bool));
        let y = b.typed(Op::Binary(kind), &[p, q], &[8], DataType::Bool);
        let mut random = Random(17);
        let flags = |r: &mut Random| Values::Int((0..8).map(|_| r.below(2)).collect());
        let samples: Vec<Vec<Values>> = (0..20).map(|_| vec![flags(&mut random), flags(&mut random)]).collect();
        let right = |s: &[Values]| {
            let pairs = real(&s[0]).into_iter().zip(real(&s[1])).map(|(a, b)| (a != 0.0, b != 0.0));
            let of = |(a, b)| match kind {
                Binary::And => a && b,
                Binary::Or => a || b,
                _ => a != b,
            };
            pairs.map(|pair| f32::from(u8::from(of(pair)))).collect()
        };
        assert!(b.keeps(&[y], &samples, right) > 200.0, "{kind:?}");
    }
}

#[test]
fn selections_take_the_chosen_value() {
    let mut b = Builder::default();
    let x = b.input("x", &[4, 4], DataType::Float);
    let keep: Vec<bool> = (0..16).map(|i| i % 4 <= i / 4).collect();
    let condition = b.0.add_constant("lower", vec![4, 4], Data::Bool(keep.clone()));
    let other = b.floats(&[], &[-7.0]);
    let y = b.node(Op::Where, &[condition, x, other], &[4, 4]);
    let chosen = |s: &[Values]| real(&s[0]).iter().zip(&keep).map(|(&v, &k)| if k { v } else { -7.0 }).collect();
    let kept = b.keeps(&[y], &float_samples(20, 16, 2.0), chosen);
    assert!(kept > 87.0, "{kept}");
}

#[test]
fn division_by_a_vector_and_by_a_count() {
    let mut b = Builder::default();
    let x = b.input("x", &[4, 3], DataType::Float);
    let divisor = b.floats(&[3], &[0.5, 4.0, -3.0]);
    let y = b.node(Op::Binary(Binary::Div), &[x, divisor], &[4, 3]);
    let right = |s: &[Values]| real(&s[0]).iter().enumerate().map(|(i, v)| v / [0.5, 4.0, -3.0][i % 3]).collect();
    let kept = b.keeps(&[y], &float_samples(20, 12, 2.0), right);
    assert!(kept > 82.0, "{kept}");

    let mut b = Builder::default();
    let (x, mask) = (b.input("x", &[1, 8, 4], DataType::Float), b.input("mask", &[1, 8, 1], DataType::Int));
    let cast = b.node(Op::Unary(Unary::Cast), &[mask], &[1, 8, 1]);
    let masked = b.node(Op::Binary(Binary::Mul), &[x, cast], &[1, 8, 4]);
    let sum = |axes| Op::Reduce { kind: Reduce::Sum, axes, keep: false };
    let total = b.node(sum(vec![1]), &[masked], &[1, 4]);
    let count = b.node(sum(vec![1]), &[cast], &[1, 1]);
    let floor = b.node(Op::Unary(Unary::Clip { low: 1e-9, high: f32::MAX }), &[count], &[1, 1]);
    let y = b.node(Op::Binary(Binary::Div), &[total, floor], &[1, 4]);
    let mut random = Random(19);
    let sample = |r: &mut Random| {
        let mask = (0..8).map(|i| i64::from(i == 0 || r.next() > 0.0)).collect();
        vec![Values::Float(r.values(32, 2.0)), Values::Int(mask)]
    };
    let samples: Vec<_> = (0..20).map(|_| sample(&mut random)).collect();
    let right = |s: &[Values]| {
        let (x, mask) = (real(&s[0]), real(&s[1]));
        let count: f32 = mask.iter().sum();
        (0..4).map(|c| (0..8).map(|t| x[t * 4 + c] * mask[t]).sum::<f32>() / count).collect()
    };
    let kept = b.keeps(&[y], &samples, right);
    assert!(kept > 82.0, "{kept}");
}

#[test]
fn extremes_of_tensors() {
    for (kind, pair) in [(Reduce::Max, Binary::Max), (Reduce::Min, Binary::Min)] {
        let mut b = Builder::default();
        let x = b.input("x", &[2, 5, 3], DataType::Float);
        let y = b.node(Op::Reduce { kind, axes: vec![1], keep: false }, &[x], &[2, 3]);
        let pick = |a: f32, b: f32| if pair == Binary::Max { a.max(b) } else { a.min(b) };
        let right = |s: &[Values]| {
            let x = real(&s[0]);
            (0..6).map(|i| (0..5).map(|r| x[i / 3 * 15 + r * 3 + i % 3]).reduce(pick).unwrap()).collect()
        };
        let kept = b.keeps(&[y], &float_samples(20, 30, 2.0), right);
        assert!(kept > 47.0, "{kind:?}: {kept}");

        let mut b = Builder::default();
        let (p, q) = (b.input("p", &[8], DataType::Float), b.input("q", &[8], DataType::Float));
        let y = b.node(Op::Binary(pair), &[p, q], &[8]);
        let mut random = Random(23);
        let values = |r: &mut Random| Values::Float(r.values(8, 2.0));
        let samples: Vec<Vec<Values>> = (0..20).map(|_| vec![values(&mut random), values(&mut random)]).collect();
        let right = |s: &[Values]| real(&s[0]).into_iter().zip(real(&s[1])).map(|(a, b)| pick(a, b)).collect();
        let kept = b.keeps(&[y], &samples, right);
        assert!(kept > 86.0, "{pair:?}: {kept}");
    }
}

#[test]
fn any_function_of_one_tensor_is_a_table() {
    let mut b = Builder::default();
    let x = b.input("x", &[16], DataType::Float);
    let abs = b.node(Op::Unary(Unary::Abs), &[x], &[16]);
    let one = b.floats(&[], &[1.0]);
    let sum = b.node(Op::Binary(Binary::Add), &[abs, one], &[16]);
    let y = b.node(Op::Binary(Binary::Div), &[x, sum], &[16]);
    let right = |s: &[Values]| real(&s[0]).iter().map(|v| v / (1.0 + v.abs())).collect();
    let kept = b.keeps(&[y], &float_samples(20, 16, 3.0), right);
    assert!(kept > 45.0, "{kept}");
}

#[test]
fn logarithms_of_sums_are_fine_where_the_sums_are_small() {
    let mut b = Builder::default();
    let x = b.input("x", &[8, 12], DataType::Float);
    let exp = b.node(Op::Unary(Unary::Exp), &[x], &[8, 12]);
    let sum = b.node(Op::Reduce { kind: Reduce::Sum, axes: vec![1], keep: true }, &[exp], &[8, 1]);
    let y = b.node(Op::Unary(Unary::Log), &[sum], &[8, 1]);
    let mut random = Random(29);
    let sample = |r: &mut Random| {
        let shifts = r.values(8, 2.5);
        vec![Values::Float((0..96).map(|i| shifts[i / 12] - 2.5 + r.next()).collect())]
    };
    let samples: Vec<_> = (0..40).map(|_| sample(&mut random)).collect();
    let right = |s: &[Values]| real(&s[0]).chunks(12).map(|r| r.iter().map(|v| v.exp()).sum::<f32>().ln()).collect();
    let kept = b.keeps(&[y], &samples, right);
    assert!(kept > 51.0, "{kept}");
}

#[test]
fn a_score_reaches_beyond_what_calibration_showed() {
    let weights = Random(31).values(16, 1.0);
    let logit = |x: &[f32]| 2.0 * x.iter().zip(&weights).map(|(a, b)| a * b).sum::<f32>() - 4.0;
    let mut b = Builder::default();
    let x = b.input("x", &[1, 16], DataType::Float);
    let doubled: Vec<f32> = weights.iter().map(|w| 2.0 * w).collect();
    let (w, bias) = (b.floats(&[1, 16], &doubled), b.floats(&[1], &[-4.0]));
    let linear = b.node(Op::Linear, &[x, w, bias], &[1, 1]);
    let y = b.node(Op::Unary(Unary::Sigmoid), &[linear], &[1, 1]);
    let all = float_samples(600, 16, 1.0);
    let quiet: Vec<Vec<Values>> = all.iter().filter(|s| logit(&real(&s[0])) < -3.0).take(100).cloned().collect();
    let events: Vec<Vec<Values>> = all.iter().filter(|s| logit(&real(&s[0])) > 0.5).cloned().collect();
    assert!(events.len() > 10);
    let converted = b.converted(&[y], &quiet).unwrap();
    for (sample, got) in events.iter().zip(run(&converted, &events)) {
        let want = 1.0 / (1.0 + (-logit(&real(&sample[0]))).exp());
        assert!((got[0] - want).abs() < 0.02, "{} instead of {want}", got[0]);
    }
}

#[test]
fn suspicious_samples_are_said_once() {
    let graph = |samples: &[Vec<Values>], normalization| {
        let mut b = Builder::default();
        let x = b.input("x", &[1, 2, 2], DataType::Float);
        let y = b.node(Op::Unary(Unary::Tanh), &[x], &[1, 2, 2]);
        b.0.outputs = vec![y];
        let options = ConvertOptions { normalization, ..ConvertOptions::default() };
        convert(&b.0, samples, &options, &mut |_| {}).unwrap().warnings
    };
    let good = float_samples(20, 4, 1.0);
    assert_eq!(graph(&good, None), [""; 0]);
    assert!(graph(&good[..1], None)[0].contains("only one calibration sample"));
    assert!(graph(&vec![good[0].clone(); 5], None)[0].contains("`x` is the same in all calibration samples"));
    let bytes: Vec<Vec<Values>> = (0..20u8).map(|i| vec![Values::U8(vec![i, 90 + i, 200, 255 - i])]).collect();
    assert_eq!(graph(&bytes, Some((0.5, 0.5))), [""; 0]);
    assert!(graph(&bytes, Some((127.5, 127.5)))[0].contains("divide both by 255"));
    assert!(graph(&good, Some((0.5, 0.5)))[0].contains("--mean and --std are for u8 pixels"));
}

/// Eight sensors: what they show on average, and how far they deviate.
const SENSORS: [(f32, f32); 8] =
    [(1013.0, 9.0), (3.3, 0.2), (20.0, 5.0), (0.002, 0.0005), (55.0, 12.0), (-40.0, 3.0), (9.81, 0.3), (300.0, 20.0)];

fn sensor_samples(rows: usize) -> Vec<Vec<Values>> {
    let mut random = Random(37);
    let value = |r: &mut Random, i: usize| SENSORS[i % 8].0 + SENSORS[i % 8].1 * 1.7 * r.next();
    (0..40).map(|_| vec![Values::Float((0..rows * 8).map(|i| value(&mut random, i)).collect())]).collect()
}

fn normalized(x: &[f32]) -> Vec<f64> {
    let of = |(i, &v): (usize, &f32)| (f64::from(v) - f64::from(SENSORS[i % 8].0)) / f64::from(SENSORS[i % 8].1);
    x.iter().enumerate().map(of).collect()
}

/// `x [rows, 8]` less the means over the deviations.
fn normalize_sensors(b: &mut Builder, x: TensorId, rows: usize) -> TensorId {
    let (mean, deviation) = (SENSORS.map(|s| s.0), SENSORS.map(|s| s.1));
    let (mean, deviation) = (b.floats(&[8], &mean), b.floats(&[8], &deviation));
    let centred = b.node(Op::Binary(Binary::Sub), &[x, mean], &[1, rows, 8]);
    b.node(Op::Binary(Binary::Div), &[centred, deviation], &[1, rows, 8])
}

#[test]
fn sensors_of_unlike_sizes_keep_their_values() {
    let (rows, n) = (12, 6);
    let weights = Random(3).values(n * 8, 0.4);
    let layer = |x: &[f64], w: &[f32]| -> Vec<f32> {
        let product = |row: &[f64], w: &[f32]| row.iter().zip(w).map(|(a, &b)| a * f64::from(b)).sum::<f64>() as f32;
        x.chunks(8).flat_map(|row| w.chunks(8).map(move |w| product(row, w))).collect()
    };
    let samples = sensor_samples(rows);
    let right = |s: &[Values]| layer(&normalized(&real(&s[0])), &weights);

    // In front of a dense layer, where the normalization would disappear in its weights.
    let mut b = Builder::default();
    let x = b.input("x", &[1, rows, 8], DataType::Float);
    let z = normalize_sensors(&mut b, x, rows);
    let w = b.floats(&[n, 8], &weights);
    let y = b.node(Op::Linear, &[z, w], &[1, rows, n]);
    let kept = b.keeps(&[y], &samples, right);
    assert!(kept > 39.0, "{kept}");

    // In front of a residual as well.
    let mut b = Builder::default();
    let x = b.input("x", &[1, rows, 8], DataType::Float);
    let z = normalize_sensors(&mut b, x, rows);
    let square = Random(4).values(64, 0.4);
    let w = b.floats(&[8, 8], &square);
    let linear = b.node(Op::Linear, &[z, w], &[1, rows, 8]);
    let y = b.node(Op::Binary(Binary::Add), &[linear, z], &[1, rows, 8]);
    let sum = |s: &[Values]| {
        let z = normalized(&real(&s[0]));
        layer(&z, &square).iter().zip(&z).map(|(a, &b)| a + b as f32).collect()
    };
    let kept = b.keeps(&[y], &samples, sum);
    assert!(kept > 39.0, "{kept}");

    // Folded into the weights by whoever exported the model.
    let mut b = Builder::default();
    let x = b.input("x", &[1, rows, 8], DataType::Float);
    let folded: Vec<f32> = weights.iter().enumerate().map(|(i, w)| w / SENSORS[i % 8].1).collect();
    let moved = |w: &[f32]| -w.iter().zip(SENSORS).map(|(&w, s)| f64::from(w) * f64::from(s.0)).sum::<f64>() as f32;
    let bias: Vec<f32> = folded.chunks(8).map(moved).collect();
    let (w, bias) = (b.floats(&[n, 8], &folded), b.floats(&[n], &bias));
    let y = b.node(Op::Linear, &[x, w, bias], &[1, rows, n]);
    let kept = b.keeps(&[y], &samples, right);
    assert!(kept > 39.0, "{kept}");
}

#[test]
fn sensors_enter_a_padded_convolution() {
    let rows = 10;
    let weights = Random(5).values(4 * 8 * 3, 0.3);
    let mut b = Builder::default();
    let x = b.input("x", &[1, rows, 8], DataType::Float);
    let z = normalize_sensors(&mut b, x, rows);
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 1] }, &[z], &[1, 8, rows]);
    let image = b.node(Op::Reshape, &[turned], &[1, 8, 1, rows]);
    let w = b.floats(&[4, 8, 1, 3], &weights);
    let window = Window { kernel: [1, 3], strides: [1, 1], pads: [0, 1, 0, 1], dilations: [1, 1], groups: 1 };
    let y = b.node(Op::Conv2d(window), &[image, w], &[1, 4, 1, rows]);
    let right = |s: &[Values]| {
        let z = normalized(&real(&s[0]));
        let tap = |n: usize, t: usize, c: usize, k: usize| {
            let at = (t + k).checked_sub(1).filter(|&at| at < rows);
            at.map_or(0.0, |at| z[at * 8 + c] * f64::from(weights[(n * 8 + c) * 3 + k]))
        };
        let value = |n: usize, t: usize| (0..24).map(|i| tap(n, t, i / 3, i % 3)).sum::<f64>() as f32;
        (0..4).flat_map(|n| (0..rows).map(move |t| (n, t))).map(|(n, t)| value(n, t)).collect()
    };
    let kept = b.keeps(&[y], &sensor_samples(rows), right);
    assert!(kept > 40.0, "{kept}");
}

#[test]
fn angles_of_positions_are_right_wherever_they_are() {
    let frequencies: Vec<f32> = (0..4).map(|i| 1000f32.powf(-(i as f32) / 4.0)).collect();
    for (kind, function) in [(Unary::Sin, f64::sin as fn(f64) -> f64), (Unary::Cos, f64::cos)] {
        let mut b = Builder::default();
        let position = b.input("position", &[1, 5], DataType::Int);
        let real_position = b.node(Op::Unary(Unary::Cast), &[position], &[1, 5]);
        let column = b.node(Op::Reshape, &[real_position], &[1, 5, 1]);
        let f = b.floats(&[1, 1, 4], &frequencies);
        let angle = b.node(Op::Binary(Binary::Mul), &[column, f], &[1, 5, 4]);
        let twice = b.node(Op::Concat { axis: 2 }, &[angle, angle], &[1, 5, 8]);
        let y = b.node(Op::Unary(kind), &[twice], &[1, 5, 8]);
        let sample = |s: i64| vec![Values::Int((0..5).map(|i| (s * 53 + i) % 900).collect())];
        let samples: Vec<_> = (0..20).map(sample).collect();
        let right = |s: &[Values]| {
            let of = |p: f32| {
                let angle = |c: usize| f64::from(p * frequencies[c % 4]);
                (0..8).map(|c| function(angle(c)) as f32).collect::<Vec<_>>()
            };
            real(&s[0]).into_iter().flat_map(of).collect()
        };
        let converted = b.converted(&[y], &samples).unwrap();
        let kept = decibels(&run(&converted, &samples), &samples, right);
        assert!(kept > 40.0, "{kept}");
        let model = ModelFile::from_bytes(&converted.file).unwrap();
        let error = model.encode(0, &Values::Int(vec![1, 2, 3, 4, 1024])).unwrap_err().to_string();
        assert!(error.contains("`position` holds 1024") && error.contains("1024 rows"), "{error}");
    }
}

#[test]
fn sines_of_wide_ranges_are_made_of_segments() {
    let mut b = Builder::default();
    let x = b.input("x", &[2, 16], DataType::Float);
    let y = b.node(Op::Unary(Unary::Sin), &[x], &[2, 16]);
    let kept = b.keeps(&[y], &float_samples(20, 32, 40.0), |s| real(&s[0]).iter().map(|v| v.sin()).collect());
    assert!(kept > 31.0, "{kept}");
}

#[test]
fn roundings_to_whole_numbers_are_those_of_16_bits() {
    type Function = fn(f32) -> f32;
    let kinds: [(Unary, Function); 4] =
        [(Unary::Floor, f32::floor), (Unary::Ceil, f32::ceil), (Unary::Round, f32::round), (Unary::Trunc, f32::trunc)];
    for (kind, function) in kinds {
        for size in [1.2, 30.0] {
            let mut b = Builder::default();
            let x = b.input("x", &[4, 16], DataType::Float);
            let y = b.node(Op::Unary(kind), &[x], &[4, 16]);
            let samples = float_samples(20, 64, size);
            let got = run(&b.converted(&[y], &samples).unwrap(), &samples);
            let right = samples.iter().map(|s| real(&s[0]).into_iter().map(function).collect::<Vec<f32>>());
            let different = |(right, got): (Vec<f32>, &Vec<f32>)| right.iter().zip(got).filter(|(a, b)| a != b).count();
            let count: usize = right.zip(&got).map(different).sum();
            // Half a step around a whole number decides: one value in 1400 of the larger size.
            assert!(count <= 6, "{kind:?} of {size}: {count} of 1280");
        }
    }
    // x - floor(x) has steps of its own in between.
    let mut b = Builder::default();
    let x = b.input("x", &[4, 16], DataType::Float);
    let floor = b.node(Op::Unary(Unary::Floor), &[x], &[4, 16]);
    let y = b.node(Op::Binary(Binary::Sub), &[x, floor], &[4, 16]);
    let kept = b.keeps(&[y], &float_samples(20, 64, 30.0), |s| real(&s[0]).iter().map(|v| v - v.floor()).collect());
    assert!(kept > 57.0, "{kept}");
}

#[test]
fn whole_numbers_are_divided_exactly() {
    let mut b = Builder::default();
    let x = b.input("x", &[1, 32], DataType::Int);
    let ten = b.0.add_constant("ten", vec![], Data::Int(vec![10]));
    let y = b.typed(Op::Binary(Binary::Div), &[x, ten], &[1, 32], DataType::Int);
    let samples: Vec<Vec<Values>> = (0..20).map(|s| vec![Values::Int((0..32).map(|i| s * 32 + i).collect())]).collect();
    let right = |s: &[Values]| real(&s[0]).iter().map(|v| (v / 10.0).floor()).collect();
    assert!(b.keeps(&[y], &samples, right) > 200.0);
}

/// As the importer writes Mod by a constant.
#[test]
fn remainders_of_whole_numbers_are_exact() {
    let mut b = Builder::default();
    let x = b.input("x", &[1, 32], DataType::Int);
    let cast = b.node(Op::Unary(Unary::Cast), &[x], &[1, 32]);
    let seven = b.floats(&[], &[7.0]);
    let quotient = b.node(Op::Binary(Binary::Div), &[cast, seven], &[1, 32]);
    let floor = b.node(Op::Unary(Unary::Floor), &[quotient], &[1, 32]);
    let whole = b.typed(Op::Unary(Unary::Cast), &[floor], &[1, 32], DataType::Int);
    let divisor = b.0.add_constant("seven", vec![], Data::Int(vec![7]));
    let taken = b.typed(Op::Binary(Binary::Mul), &[whole, divisor], &[1, 32], DataType::Int);
    let y = b.typed(Op::Binary(Binary::Sub), &[x, taken], &[1, 32], DataType::Int);
    let sample = |s: i64| vec![Values::Int((0..32).map(|i| (s * 32 + i) * 2 - 500).collect())];
    let samples: Vec<Vec<Values>> = (0..20).map(sample).collect();
    let right = |s: &[Values]| real(&s[0]).iter().map(|v| v.rem_euclid(7.0)).collect();
    assert!(b.keeps(&[y], &samples, right) > 200.0);
}

#[test]
fn guards_beside_inputs_give_zeros() {
    let mut b = Builder::default();
    let (x, mask) = (b.input("x", &[4, 6], DataType::Float), b.input("mask", &[4, 6], DataType::Bool));
    let (hidden, zero) = (b.floats(&[], &[f32::NEG_INFINITY]), b.floats(&[], &[0.0]));
    let scores = b.node(Op::Where, &[mask, x, hidden], &[4, 6]);
    let p = b.node(Op::Softmax, &[scores], &[4, 6]);
    let test = b.typed(Op::Unary(Unary::IsNaN), &[p], &[4, 6], DataType::Bool);
    let y = b.node(Op::Where, &[test, zero, p], &[4, 6]);
    let mut random = Random(47);
    let sample = |r: &mut Random| {
        let none = r.below(4);
        let mask = (0..24).map(|i| i64::from(i / 6 != none && (i % 6 == 0 || r.next() > 0.0))).collect();
        vec![Values::Float(r.values(24, 4.0)), Values::Int(mask)]
    };
    let samples: Vec<_> = (0..24).map(|_| sample(&mut random)).collect();
    let right = |s: &[Values]| {
        let mask = real(&s[1]);
        let scores: Vec<f32> =
            real(&s[0]).iter().zip(&mask).map(|(&x, &m)| if m > 0.0 { x } else { f32::NEG_INFINITY }).collect();
        let row = |r: &[f32]| if r.iter().all(|v| v.is_infinite()) { vec![0.0; 6] } else { softmax(r) };
        scores.chunks(6).flat_map(row).collect()
    };
    let kept = b.keeps(&[y], &samples, right);
    assert!(kept > 62.0, "{kept}");
}

#[test]
fn pairs_of_16_bits_inside_of_a_model_round_and_clip() {
    // Scale, zero point and range; the last two clip at 0.5.
    for (scale, zero_point, range) in
        [(0.25, 0, (-32768, 32767)), (0.5 / 32768.0, 0, (-32768, 32767)), (1.0 / 65536.0, 32768, (0, 65535))]
    {
        let mut b = Builder::default();
        let x = b.input("x", &[4, 16], DataType::Float);
        let quant = FakeQuant { scale: vec![scale], zero_point: vec![zero_point], axis: 0, range };
        let q = b.node(Op::FakeQuant(quant), &[x], &[4, 16]);
        let y = b.node(Op::Binary(Binary::Add), &[q, x], &[4, 16]);
        let pair = |v: f32| {
            let q = ((v / scale).round_ties_even() as i32 + zero_point).clamp(range.0, range.1);
            (q - zero_point) as f32 * scale + v
        };
        let kept = b.keeps(&[y], &float_samples(20, 64, 2.0), |s| real(&s[0]).into_iter().map(pair).collect());
        assert!(kept > 77.0, "{scale}: {kept}");
    }
}

#[test]
fn linear_attention_divides_by_sums_that_may_vanish() {
    let (n, d) = (8, 4);
    let mut b = Builder::default();
    let x = b.input("x", &[1, n, 3 * d], DataType::Float);
    let part = |b: &mut Builder, i: usize| {
        let op = Op::Slice { starts: vec![0, 0, i * d], steps: vec![1, 1, 1] };
        b.node(op, &[x], &[1, n, d])
    };
    let (q, k, v) = (part(&mut b, 0), part(&mut b, 1), part(&mut b, 2));
    let (q, k) = (b.node(Op::Unary(Unary::Relu), &[q], &[1, n, d]), b.node(Op::Unary(Unary::Relu), &[k], &[1, n, d]));
    let turned = b.node(Op::Transpose { perm: vec![0, 2, 1] }, &[k], &[1, d, n]);
    let kv = b.node(Op::MatMul { transpose_b: false }, &[turned, v], &[1, d, d]);
    let above = b.node(Op::MatMul { transpose_b: false }, &[q, kv], &[1, n, d]);
    let sums = b.node(Op::Reduce { kind: Reduce::Sum, axes: vec![1], keep: true }, &[k], &[1, 1, d]);
    let products = b.node(Op::Binary(Binary::Mul), &[q, sums], &[1, n, d]);
    let below = b.node(Op::Reduce { kind: Reduce::Sum, axes: vec![2], keep: true }, &[products], &[1, n, 1]);
    let eps = b.floats(&[], &[1e-6]);
    let below = b.node(Op::Binary(Binary::Add), &[below, eps], &[1, n, 1]);
    let y = b.node(Op::Binary(Binary::Div), &[above, below], &[1, n, d]);
    let right = |s: &[Values]| {
        let x = real(&s[0]);
        let at = |t: usize, i: usize| x[t * 3 * d + i];
        let (q, k) = (|t: usize, c: usize| at(t, c).max(0.0), |t: usize, c: usize| at(t, d + c).max(0.0));
        let weight = |i: usize, j: usize| (0..d).map(|c| q(i, c) * k(j, c)).sum::<f32>();
        let value = |i: usize, c: usize| {
            let below: f32 = (0..n).map(|j| weight(i, j)).sum::<f32>() + 1e-6;
            (0..n).map(|j| weight(i, j) * at(j, 2 * d + c)).sum::<f32>() / below
        };
        (0..n * d).map(|i| value(i / d, i % d)).collect()
    };
    let kept = b.keeps(&[y], &float_samples(40, n * 3 * d, 1.5), right);
    assert!(kept > 22.0, "{kept}");
}

#[test]
fn logarithms_of_probabilities_reach_below_their_steps() {
    let mut b = Builder::default();
    let x = b.input("x", &[4, 8], DataType::Float);
    let p = b.node(Op::Softmax, &[x], &[4, 8]);
    let y = b.node(Op::Unary(Unary::Log), &[p], &[4, 8]);
    let right = |s: &[Values]| {
        let row = |r: &[f32]| {
            let sum: f32 = r.iter().map(|v| v.exp()).sum();
            r.iter().map(|v| v - sum.ln()).collect::<Vec<_>>()
        };
        real(&s[0]).chunks(8).flat_map(row).collect()
    };
    let kept = b.keeps(&[y], &float_samples(20, 32, 6.0), right);
    assert!(kept > 49.0, "{kept}");
}

/// Fused attention of two heads with a mask that is an input, some of whose rows hide every key.
fn masked_attention(hidden: f32) -> (Builder, TensorId, Vec<Vec<Values>>) {
    let (h, n, d) = (2, 6, 8);
    let mut b = Builder::default();
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, &[1, h, n, d], DataType::Float));
    let mask = b.input("mask", &[1, 1, n, n], DataType::Float);
    let turned = b.node(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k], &[1, h, d, n]);
    let scores = b.node(Op::MatMul { transpose_b: false }, &[q, turned], &[1, h, n, n]);
    let factor = b.floats(&[], &[0.353_553_4]);
    let scores = b.node(Op::Binary(Binary::Mul), &[scores, factor], &[1, h, n, n]);
    let sum = b.node(Op::Binary(Binary::Add), &[scores, mask], &[1, h, n, n]);
    let p = b.node(Op::Softmax, &[sum], &[1, h, n, n]);
    let y = b.node(Op::MatMul { transpose_b: false }, &[p, v], &[1, h, n, d]);
    let mut random = Random(41);
    let sample = |r: &mut Random| {
        let mut mask: Vec<f32> = (0..n * n).map(|i| if i % n > 0 && r.next() > 0.2 { hidden } else { 0.0 }).collect();
        let all = r.below(n as u64) as usize;
        mask[all * n..(all + 1) * n].fill(hidden);
        let mut values = || Values::Float(r.values(h * n * d, 1.7));
        vec![values(), values(), values(), Values::Float(mask)]
    };
    let samples = (0..24).map(|_| sample(&mut random)).collect();
    (b, y, samples)
}

#[test]
fn rows_whose_keys_an_input_hides_are_those_of_the_float_model() {
    for hidden in [f32::NEG_INFINITY, f32::MIN, -1e9, -1e4] {
        let (h, n, d) = (2, 6, 8);
        let (b, y, samples) = masked_attention(hidden);
        let right = |s: &[Values]| {
            let [q, k, v, mask] = [0, 1, 2, 3].map(|i| real(&s[i]));
            let row = |head: usize, i: usize| {
                let at = |j: usize, c: usize| (head * n + j) * d + c;
                let score =
                    |j: usize| (0..d).map(|c| q[at(i, c)] * k[at(j, c)]).sum::<f32>() * 0.353_553_4 + mask[i * n + j];
                let scores: Vec<f32> = (0..n).map(score).collect();
                let none = scores.iter().all(|&s| s == f32::NEG_INFINITY);
                let p = if none { vec![0.0; n] } else { softmax(&scores) };
                (0..d).map(|c| (0..n).map(|j| p[j] * v[at(j, c)]).sum()).collect::<Vec<f32>>()
            };
            (0..h * n).flat_map(|i| row(i / n, i % n)).collect()
        };
        let kept = b.keeps(&[y], &samples, right);
        assert!(kept > 38.0, "{hidden}: {kept}");
    }
}

#[test]
fn indices_are_judged_by_how_many_are_right() {
    let mut b = Builder::default();
    let x = b.input("x", &[8], DataType::Float);
    let limit = b.floats(&[], &[0.0]);
    let y = b.typed(Op::Binary(Binary::Greater), &[x, limit], &[8], DataType::Bool);
    let converted = b.converted(&[y], &float_samples(40, 8, 1.0)).unwrap();
    let quality = &converted.outputs[0];
    assert!(quality.whole && quality.sqnr_db.unwrap() > 40.0, "{quality:?}");
    let mut poor = quality.clone();
    poor.sqnr_db = Some(20.0);
    assert!(poor.loss().contains("differs from the float model in 10 % of its values"), "{}", poor.loss());
}

#[test]
fn outputs_near_the_edge_of_what_was_seen_are_noted_once() {
    let notes = |sizes: [f32; 2]| {
        let mut b = Builder::default();
        let x = b.input("x", &[4, 8], DataType::Float);
        let y = b.node(Op::Binary(Binary::Add), &[x, x], &[4, 8]);
        let mut samples = float_samples(40, 32, 1.0);
        for (index, sample) in samples.iter_mut().enumerate() {
            let scaled = real(&sample[0]).iter().map(|v| v * sizes[index % 2]).collect();
            *sample = vec![Values::Float(scaled)];
        }
        let converted = b.converted(&[y], &samples).unwrap();
        converted.notes.iter().filter(|note| note.contains("near the edge of what was seen")).count()
    };
    assert_eq!((notes([1.0, 1.0]), notes([1.0, 2.0])), (0, 1));
}

#[test]
fn rare_events_are_judged_by_the_error_of_their_score() {
    let quality = |sqnr_db, largest_error| {
        let mut quality = OutputQuality::new("y", Some(sqnr_db));
        quality.largest_error = largest_error;
        quality
    };
    assert_eq!(worst_output(&[quality(5.0, None)]).unwrap().1, 5.0);
    assert!((worst_output(&[quality(5.0, Some(0.01))]).unwrap().1 - 40.0).abs() < 1e-9);
    assert_eq!(worst_output(&[quality(30.0, Some(0.5)), quality(25.0, None)]).unwrap().1, 25.0);
}
