//! The overflow certificate against files that no converter writes.

use shiftformer::ModelError;
use shiftformer::arith::exp::EXP2_ONE;
use shiftformer::format::{CRC, CertRecord, Profile, SectionKind, Word, field, header_crc};
use shiftformer::kernels::{Native, Portable};
use shiftformer::ops::attention::{AttentionParams, AttentionValues, BiasView, HeadView, MAX_WIDE_ROW};
use shiftformer::ops::i_layer_norm::ILayerNorm;
use shiftformer::ops::matmul::{MAX_PROBABILITY, MatMul};
use shiftformer::ops::{Op, OpFault, OpKind};
use shiftformer::tensor::Dtype;
use shiftformer_convert::model_file::{ModelFile, ModelFileError, integers};
use shiftformer_convert::pack::{Annotations, PackError, pack};
use shiftformer_convert::program::plan::plan;
use shiftformer_convert::program::{Endpoint, Program, QOp, QTensor};
use shiftformer_lab::backend::{Backend, Host};

#[test]
fn the_documentation_says_what_each_operator_computes_with() {
    let text = include_str!("../../../docs/certificate.md");
    let rows =
        text.lines().skip_while(|line| !line.starts_with("| operator |")).filter_map(|line| line.split('|').nth(1));
    let documented: Vec<&str> = rows.flat_map(|names| names.split(',').map(str::trim)).collect();
    for kind in OpKind::ALL {
        let count = documented.iter().filter(|name| **name == kind.name()).count();
        assert_eq!(count, 1, "docs/certificate.md has {count} rows for `{}`", kind.name());
    }
}

/// `program` with its one operator, whose operands are the inputs.
fn with_op(mut program: Program, op: Op, inputs: &[Option<(Dtype, usize)>], output: (Dtype, usize)) -> Program {
    let mut add = |name: &str, (dtype, len): (Dtype, usize)| {
        let name = name.to_owned();
        let tensor = QTensor {
            name,
            dtype,
            shape: vec![len],
            scale: 1.0,
            zero: 0.0,
            constant: None,
            source: None,
            window: 0,
            in_state: false,
        };
        program.add_tensor(tensor)
    };
    let operands: Vec<_> = inputs.iter().map(|input| input.map(|input| add("x", input))).collect();
    let output = add("y", output);
    let endpoint = |tensor| Endpoint { name: "e".to_owned(), tensor, shape: vec![], normalization: None, masks: false };
    program.inputs = operands.iter().flatten().map(|&tensor| endpoint(tensor)).collect();
    program.outputs = vec![endpoint(output)];
    program.ops.push(QOp { name: "the_op".to_owned(), op, inputs: operands, output, chained: false });
    program
}

fn file(program: &Program) -> Result<ModelFile, PackError> {
    let bytes = pack(program, &plan(program), &Annotations::default(), &[])?;
    Ok(ModelFile::from_bytes(&bytes).expect("what was packed can be read"))
}

/// The output for `sample`, which all kernels of this machine agree on.
fn output(model: &ModelFile, sample: &[Vec<u8>], dtype: Dtype) -> Vec<i32> {
    let sample = vec![sample.to_vec()];
    let portable = Host::<Portable>::new("portable", model).run(&sample).unwrap();
    let native = Host::<Native>::new("native", model).run(&sample).unwrap();
    assert_eq!(portable[0].outputs, native[0].outputs);
    integers(&portable[0].outputs[0], dtype)
}

fn matmul(k: u32) -> Program {
    let op = MatMul {
        batch: [1; 3],
        m: 6,
        n: 2,
        k,
        a_batch: [0; 3],
        a_row: k,
        b_batch: [0; 3],
        b_row: k,
        b_transposed: true,
        acc_shift: 0,
        multiplier: 0,
        zero_point: 0,
    };
    let k = k as usize;
    let inputs = [Some((Dtype::U16, 6 * k)), Some((Dtype::I8, 2 * k))];
    with_op(Program::new(Profile::Ivit), Op::MatMul(op), &inputs, (Dtype::I32, 12))
}

#[test]
fn probabilities_beyond_one_do_not_wrap() {
    let k = 512;
    let model = file(&matmul(k)).unwrap();
    let cert = model.open::<Portable>().unwrap().certificate(0).unwrap();
    for (a, b) in [(u16::MAX, -128i8), (u16::MAX, 127), (1 << 15, -128), (MAX_PROBABILITY, -128), (7, -3)] {
        let sample = [a.to_le_bytes().repeat(6 * k as usize), vec![b as u8; 2 * k as usize]];
        let y = output(&model, &sample, Dtype::I32);
        let exact = i64::from(k) * i64::from(a.min(MAX_PROBABILITY)) * i64::from(b);
        assert!(y.iter().all(|&y| i64::from(y) == exact), "{a} {b}: {y:?} {exact}");
        assert!(y.iter().all(|y| (cert.acc_min..=cert.acc_max).contains(y)), "{a} {b}: {y:?} {cert:?}");
    }
}

#[test]
fn sums_of_probabilities_that_cannot_be_proven_are_refused() {
    let refused = file(&matmul(513)).unwrap_err().to_string();
    assert!(refused.contains("the_op") && refused.contains("overflow"), "{refused}");
}

#[test]
fn exponentials_beyond_one_do_not_wrap() {
    let n_k = MAX_WIDE_ROW;
    let view = HeadView { offset: 0, batch: 0, head: 0, row: 1 };
    let attention = AttentionParams {
        batch: 1,
        heads: 1,
        kv_group: 1,
        n_q: 6,
        n_k,
        head_dim: 1,
        v_dim: 1,
        wide_exp: true,
        acc_shift: 0,
        score_multiplier: 0,
        ratio_m: 1 << 14,
        ratio_shift: 14,
        zero_point: 0,
        q: view,
        k: view,
        v: view,
        out: view,
        bias0: BiasView::NONE,
        bias1: BiasView::NONE,
    };
    let n_k = n_k as usize;
    let inputs = [Some((Dtype::U16, 6 * n_k)), None, Some((Dtype::I8, n_k))];
    let op = Op::AttentionValues(AttentionValues { attention });
    let model = file(&with_op(Program::new(Profile::Shift), op, &inputs, (Dtype::I8, 6))).unwrap();
    // The mean of equal values is the value, whatever the weights.
    for (weight, value) in [(u16::MAX, -128i8), (u16::MAX, 127), (1 << 15, -128), (EXP2_ONE as u16, 127)] {
        let sample = [weight.to_le_bytes().repeat(6 * n_k), vec![value as u8; n_k]];
        assert_eq!(output(&model, &sample, Dtype::I8), [i32::from(value); 6], "{weight} {value}");
    }
}

/// An I-LayerNorm of two columns with a bias and a ratio.
fn i_layer_norm(bias: i64) -> Program {
    let mut program = Program::new(Profile::Ivit);
    let op = ILayerNorm {
        rows: 1,
        n: 2,
        bias: program.weights.add(&bias.to_le_bytes().repeat(2)),
        ratios: program.weights.add_i32(&[1 << 30, 40, 1 << 30, 40]),
    };
    with_op(program, Op::ILayerNorm(op), &[Some((Dtype::I16, 2))], (Dtype::I16, 2))
}

#[test]
fn the_certificate_of_i_layer_norm_counts_bias_and_product() {
    let cert = |bias| file(&i_layer_norm(bias)).unwrap().open::<Portable>().unwrap().certificate(0).unwrap();
    // Two rows of 2^16 steps between them; the doubled normalized value, up to 2^31.
    assert_eq!((cert(0).wide_bits, cert(0).product_bits, cert(0).sum_bits), (33, 63, 33));
    assert_eq!((cert(1 << 40).wide_bits, cert(-(1 << 40)).product_bits), (42, 73));
    assert_eq!((cert(1 << 53).wide_bits, cert(1 << 53).product_bits), (55, 86));
    let refused = file(&i_layer_norm(1 << 54)).unwrap_err().to_string();
    assert!(refused.contains("the_op") && refused.contains("overflow"), "{refused}");
}

/// `file` with the certificate of its operator replaced and all checksums made good.
fn with_certificate(model: &ModelFile, cert: CertRecord) -> Vec<u8> {
    let mut bytes = model.bytes().to_vec();
    let section = model.open::<Portable>().unwrap().sections().get(SectionKind::Certificate).as_ptr();
    let at = section as usize - model.bytes().as_ptr() as usize;
    let mut words = Vec::new();
    cert.write(&mut |word: u32| words.extend(word.to_le_bytes()));
    bytes[at..at + words.len()].copy_from_slice(&words);
    let head = u32::from_le_bytes(bytes[field::HEADER_BYTES..][..4].try_into().unwrap()) as usize;
    let payload = CRC.checksum(&bytes[head..]);
    bytes[field::PAYLOAD_CRC..][..4].copy_from_slice(&payload.to_le_bytes());
    let header = header_crc(&bytes[..head]).unwrap();
    bytes[field::HEADER_CRC..][..4].copy_from_slice(&header.to_le_bytes());
    bytes
}

#[test]
fn a_certificate_that_states_less_than_can_be_proven_is_refused_when_the_model_is_opened() {
    let model = file(&i_layer_norm(1 << 40)).unwrap();
    let own = model.open::<Portable>().unwrap().certificate(0).unwrap();
    let less = [
        CertRecord { acc_min: own.acc_min + 1, ..own },
        CertRecord { acc_max: own.acc_max - 1, ..own },
        CertRecord { product_bits: own.product_bits - 1, ..own },
        CertRecord { wide_bits: own.wide_bits - 1, ..own },
        CertRecord { sum_bits: own.sum_bits - 1, ..own },
    ];
    for cert in less {
        let refused = ModelFile::from_bytes(&with_certificate(&model, cert)).unwrap_err();
        let fault = ModelError::Op { op: 0, kind: OpKind::ILayerNorm as u16, fault: OpFault::Overflow };
        assert!(matches!(refused, ModelFileError::Model(found) if found == fault), "{cert:?}: {refused}");
    }
    let more = CertRecord { wide_bits: own.wide_bits + 1, acc_max: i32::MAX, ..own };
    let looser = ModelFile::from_bytes(&with_certificate(&model, more)).unwrap();
    assert_eq!(looser.open::<Portable>().unwrap().certificate(0), Some(more));
}
