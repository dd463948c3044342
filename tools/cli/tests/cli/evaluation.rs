//! Evaluations and conversions that cannot mislead: labels, references and arrays that fit nothing, outputs that lose too
//! much.

use crate::harness::{Ended, Folder, NamedArray, bundled, digits_arg, npz_of, shiftformer};
use prost::Message;
use shiftformer_convert::data::Dataset;
use shiftformer_convert::import::onnx::attribute_proto::AttributeType;
use shiftformer_convert::import::onnx::tensor_proto::DataType;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension::Value::DimValue};
use shiftformer_convert::import::onnx::type_proto::{self, Value};
use shiftformer_convert::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};
use shiftformer_convert::model_file::Values;
use std::path::Path;

const SAMPLES: usize = 40;

/// Pixels and classes of the first evaluation images.
fn images() -> (Vec<u8>, Vec<i64>) {
    let data = Dataset::open(Path::new(&bundled("eval.npz"))).unwrap();
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    for index in 0..SAMPLES {
        let Values::U8(image) = data.input("image").unwrap().sample(index) else { panic!("pixels are u8") };
        let Values::Int(class) = data.labels().unwrap().sample(index) else { panic!("labels are integers") };
        pixels.extend(image);
        classes.extend(class);
    }
    (pixels, classes)
}

/// Evaluates the digits model with these arrays beside the images.
fn evaluated(arrays: &[NamedArray<'_>]) -> Ended {
    let folder = Folder::new();
    let pixels: NamedArray<'_> = ("in_image", &[SAMPLES as u64, 1, 8, 8], Values::U8(images().0));
    let data = folder.write("data.npz", &npz_of(&[&[pixels], arrays].concat()));
    shiftformer(&["eval", &digits_arg(), "--data", &data, "--json"])
}

#[test]
fn one_hot_labels_are_classes() {
    let classes = images().1;
    let plain = evaluated(&[("label", &[SAMPLES as u64], Values::Int(classes.clone()))]).json();
    let rows: Vec<f32> = classes.iter().flat_map(|&c| (0..10).map(move |i| f32::from(u8::from(i == c)))).collect();
    let marked = evaluated(&[("label", &[SAMPLES as u64, 10], Values::Float(rows))]).json();
    assert!(plain["accuracy"].as_f64().unwrap() > 0.9, "{plain}");
    assert_eq!(plain["accuracy"], marked["accuracy"]);
}

#[test]
fn labels_that_are_no_classes_are_refused() {
    let count = SAMPLES as u64;
    let mut beyond = images().1;
    beyond[3] = 10;
    evaluated(&[("label", &[count], Values::Int(beyond))]).is_refused(&["sample 3", "10", "10 classes"]);
    let mut below = images().1;
    below[5] = -1;
    evaluated(&[("label", &[count], Values::Int(below))]).is_refused(&["sample 5", "-1", "10 classes"]);
    let fractions = vec![3.5; SAMPLES];
    evaluated(&[("label", &[count], Values::Float(fractions))]).is_refused(&["sample 0", "3.5 is not a class"]);
    let pairs = vec![1; 2 * SAMPLES];
    evaluated(&[("label", &[count, 2], Values::Int(pairs))]).is_refused(&["2 values", "1 rows of 10", "one-hot"]);
}

#[test]
fn labels_by_another_name_are_spoken_of() {
    for name in ["labels", "y"] {
        let ended = evaluated(&[(name, &[SAMPLES as u64], Values::Int(images().1))]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let said = ended.stderr.contains(&format!("`{name}` is not read")) && ended.stderr.contains("`label`");
        assert!(said, "{}", ended.stderr);
    }
}

#[test]
fn references_of_no_output_are_refused() {
    let reference = vec![0.5; 10 * SAMPLES];
    let ended = evaluated(&[("out_scores", &[SAMPLES as u64, 10], Values::Float(reference))]);
    ended.is_refused(&["`out_scores`", "`logits`"]);
}

#[test]
fn arrays_with_exchanged_axes_are_refused() {
    let folder = Folder::new();
    let model = folder.write("m.onnx", &layer(4, 1.0, None));
    let data = folder.write("d.npz", &npz_of(&[("in_x", &[8, 4, 3], Values::Float(vec![0.5; 96]))]));
    let out = folder.path("m.sfm");
    shiftformer(&["convert", &model, "-o", &out, "--calib", &data]).is_refused(&["[4, 3]", "[1, 3, 4]", "transpose"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn the_name_of_a_source_tells_its_language() {
    let folder = Folder::new();
    for (file, expected) in [("m.h", "#ifndef"), ("m.rs", "pub const")] {
        let path = folder.path(file);
        let ended = shiftformer(&["codegen", &digits_arg(), "-o", &path]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.contains(expected), "{file}: {}", &source[..400.min(source.len())]);
    }
}

/// A model `x [1, 3, 4]` times `[4, n]` with equal weights `factor`, `last` behind it.
fn layer(n: i64, factor: f32, last: Option<(&str, Vec<AttributeProto>)>) -> Vec<u8> {
    let dim = |size: i64| Dimension { value: Some(DimValue(size)), ..Dimension::default() };
    let shape = Some(TensorShapeProto { dim: [1, 3, 4].map(dim).to_vec() });
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
    let r#type = Some(TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() });
    let weights = (0..4 * n).map(|i| factor * (0.3 + ((i * 7 % 11) as f32) / 11.0)).collect();
    let mut node = vec![NodeProto {
        op_type: "MatMul".into(),
        name: "product".into(),
        input: vec!["x".into(), "w".into()],
        output: vec!["t".into()],
        ..NodeProto::default()
    }];
    let output = last.map_or_else(
        || "t".to_owned(),
        |(op, attribute)| {
            let (input, output) = (vec!["t".into()], vec!["y".into()]);
            node.push(NodeProto {
                op_type: op.into(),
                name: "last".into(),
                input,
                output,
                attribute,
                ..NodeProto::default()
            });
            "y".to_owned()
        },
    );
    let graph = GraphProto {
        node,
        initializer: vec![TensorProto {
            name: "w".into(),
            dims: vec![4, n],
            data_type: DataType::Float as i32,
            float_data: weights,
            ..TensorProto::default()
        }],
        input: vec![ValueInfoProto { name: "x".into(), r#type, ..ValueInfoProto::default() }],
        output: vec![ValueInfoProto { name: output, ..ValueInfoProto::default() }],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
}

/// `count` samples of 12 values that differ.
fn values(count: usize) -> Vec<f32> {
    (0..count * 12).map(|i| ((i * 37 % 101) as f32) / 101.0 - 0.4).collect()
}

/// An output that is next to nothing but noise is not written, unless asked for.
#[test]
fn outputs_that_lose_too_much_need_consent() {
    let folder = Folder::new();
    // The exponent spans so much that 8 bits for it leave nothing of the result.
    let model = folder.write("m.onnx", &layer(4, 9.0, Some(("Exp", Vec::new()))));
    let data = folder.write("d.npz", &npz_of(&[("in_x", &[40, 3, 4], Values::Float(values(40)))]));
    let out = folder.path("m.sfm");
    let convert = |more: &[&str]| {
        shiftformer(&[&["convert", model.as_str(), "-o", out.as_str(), "--calib", data.as_str()], more].concat())
    };
    let strict = convert(&["--accept-sqnr", "90"]);
    assert_eq!(strict.code, Some(1), "{}{}", strict.stdout, strict.stderr);
    assert!(
        strict.stderr.contains("90 dB are required") && strict.stderr.contains("--accept-sqnr"),
        "{}",
        strict.stderr
    );
    assert!(!Path::new(&out).exists());
    let lenient = convert(&["--accept-sqnr", "-50"]);
    assert_eq!(lenient.code, Some(0), "{}", lenient.stderr);
    assert!(Path::new(&out).exists());
}

/// An output that is cut off where its range ends is spoken of, with how often that was; others are not.
#[test]
fn outputs_at_the_end_of_their_range_are_spoken_of() {
    let folder = Folder::new();
    let model = folder.write("m.onnx", &layer(4, 3.0, None));
    let data = |name: &str, values: Vec<f32>| {
        let samples = values.len() as u64 / 12;
        folder.write(name, &npz_of(&[("in_x", &[samples, 3, 4], Values::Float(values))]))
    };
    let seen = data("d.npz", values(40));
    let out = folder.path("m.sfm");
    assert_eq!(shiftformer(&["convert", &model, "-o", &out, "--calib", &seen]).code, Some(0));
    let said = |data: &str| shiftformer(&["eval", &out, "--data", data, "--float", &model]).stderr;
    assert!(!said(&seen).contains("end of its range"), "{}", said(&seen));
    // No calibration sample has all its values so large.
    let beyond = said(&data("e.npz", [vec![0.6; 24], values(3)].concat()));
    assert!(beyond.contains("`t` reaches the end of its range") && beyond.contains("in 2 of 5 samples"), "{beyond}");
}

/// One score agrees where both say yes or both say no.
#[test]
fn agreement_of_one_score_is_that_of_its_threshold() {
    let folder = Folder::new();
    let model = folder.write("m.onnx", &layer(1, 3.0, Some(("Sigmoid", Vec::new()))));
    let data = folder.write("d.npz", &npz_of(&[("in_x", &[40, 3, 4], Values::Float(values(40)))]));
    let out = folder.path("m.sfm");
    assert_eq!(shiftformer(&["convert", &model, "-o", &out, "--calib", &data]).code, Some(0));
    let agreement = |reference: f32| {
        let reference = ("out_y", &[40, 3, 1][..], Values::Float(vec![reference; 120]));
        let arrays = [("in_x", &[40, 3, 4][..], Values::Float(values(40))), reference];
        let data = folder.write("e.npz", &npz_of(&arrays));
        shiftformer(&["eval", &out, "--data", &data, "--json"]).json()["agreement"].as_f64().unwrap()
    };
    let (yes, no) = (agreement(0.9), agreement(0.1));
    assert!(yes > 0.1 && no > 0.1 && (yes + no - 1.0).abs() < 1e-6, "{yes} {no}");
}

/// An id beyond its table is named with its sample and its input.
#[test]
fn token_ids_out_of_range_are_named() {
    let folder = Folder::new();
    let graph = GraphProto {
        node: vec![NodeProto {
            op_type: "Gather".into(),
            name: "embed".into(),
            input: vec!["table".into(), "ids".into()],
            output: vec!["y".into()],
            attribute: vec![AttributeProto {
                name: "axis".into(),
                r#type: AttributeType::Int as i32,
                ..Default::default()
            }],
            ..NodeProto::default()
        }],
        initializer: vec![TensorProto {
            name: "table".into(),
            dims: vec![6, 2],
            data_type: DataType::Float as i32,
            float_data: (0..12).map(|i| i as f32 - 6.0).collect(),
            ..TensorProto::default()
        }],
        input: vec![ValueInfoProto {
            name: "ids".into(),
            r#type: Some(TypeProto {
                value: Some(Value::TensorType(type_proto::Tensor {
                    elem_type: DataType::Int64 as i32,
                    shape: Some(TensorShapeProto {
                        dim: [1, 3].map(|d| Dimension { value: Some(DimValue(d)), ..Dimension::default() }).to_vec(),
                    }),
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }],
        output: vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
    let model = folder.write("m.onnx", &model.encode_to_vec());
    let good = folder.write("g.npz", &npz_of(&[("in_ids", &[2, 3], Values::Int(vec![0, 5, 1, 2, 3, 4]))]));
    let bad = folder.write("b.npz", &npz_of(&[("in_ids", &[2, 3], Values::Int(vec![0, 5, 1, 2, 6, 4]))]));
    let out = folder.path("m.sfm");
    shiftformer(&["convert", &model, "-o", &out, "--calib", &bad]).is_refused(&["sample 1", "`ids`", "6", "6 rows"]);
    assert_eq!(shiftformer(&["convert", &model, "-o", &out, "--calib", &good]).code, Some(0));
    shiftformer(&["eval", &out, "--data", &bad]).is_refused(&["sample 1", "`ids`", "6", "6 rows"]);
}
