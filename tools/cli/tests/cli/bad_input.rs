//! Whatever is wrong with the input: exit code 2, one line that says what to do, no file left behind.

use crate::harness::{Ended, Folder, bundled, changed_onnx, digits, digits_arg, npz, shiftformer};
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::type_proto::Value;
use shiftformer_convert::model_file::ModelFile;

/// Converts `model` in a fresh folder; afterwards only the inputs are in it.
fn convert(folder: &Folder, model: &str, calib: Option<&str>, more: &[&str]) -> Ended {
    let before = folder.files();
    let out = folder.path("out.sfm");
    let mut args = vec!["convert", model, "-o", &out];
    if let Some(calib) = calib {
        args.extend(["--calib", calib]);
    }
    args.extend(more);
    let ended = shiftformer(&args);
    if ended.code != Some(0) {
        assert_eq!(folder.files(), before, "a failed conversion leaves files behind");
    }
    ended
}

const DIGITS: [&str; 4] = ["--mean", "0.3057", "--std", "0.376"];

#[test]
fn files_that_are_no_onnx_model() {
    let folder = Folder::new();
    let text = folder.write("text.onnx", b"this is not a model");
    convert(&folder, &text, Some(&bundled("calib.npz")), &[]).is_refused(&["not an ONNX model"]);
    convert(&folder, &folder.path("absent.onnx"), None, &[]).is_refused(&["absent.onnx", "cannot read"]);
    let empty = folder.write("empty.onnx", b"");
    convert(&folder, &empty, Some(&bundled("calib.npz")), &[]).is_refused(&["empty.onnx"]);
}

#[test]
fn a_truncated_onnx_model() {
    let folder = Folder::new();
    let whole = std::fs::read(bundled("digits-vit.onnx")).unwrap();
    for percent in [3, 20, 50, 80, 99] {
        let part = folder.write("part.onnx", &whole[..whole.len() * percent / 100]);
        convert(&folder, &part, Some(&bundled("calib.npz")), &DIGITS).is_refused(&["part.onnx"]);
    }
}

#[test]
fn unsupported_operators_are_all_listed() {
    let model = changed_onnx(|model| {
        let nodes = &mut model.graph.as_mut().unwrap().node;
        for node in nodes.iter_mut().filter(|node| node.op_type == "Softmax") {
            node.op_type = "Det".to_owned();
        }
    });
    let folder = Folder::new();
    let path = folder.write("m.onnx", &model);
    let ended = convert(&folder, &path, Some(&bundled("calib.npz")), &DIGITS);
    ended.is_refused(&["Det", "/blocks.0/attention/Softmax", "/blocks.3/attention/Softmax"]);
}

/// A layer `[1, k] x [k, 1]` named `endless_sum` with weights of one.
fn endless_sum(k: usize) -> Vec<u8> {
    changed_onnx(|model| {
        let graph = model.graph.as_mut().unwrap();
        let names = ["x", "w", "y"].map(str::to_owned);
        let sized = |index: usize, dims: [i64; 2]| {
            let mut info = graph.input[0].clone();
            info.name = names[index].clone();
            let Some(Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
                panic!("the input is a tensor")
            };
            let dim = |value| Dimension { value: Some(dimension::Value::DimValue(value)), ..Dimension::default() };
            tensor.shape.as_mut().unwrap().dim = dims.map(dim).to_vec();
            info
        };
        let (input, output) = (sized(0, [1, k as i64]), sized(2, [1, 1]));
        let mut weights = graph.initializer.iter().find(|t| t.data_type == 1).unwrap().clone();
        (weights.name, weights.dims) = (names[1].clone(), vec![k as i64, 1]);
        weights.raw_data = 1f32.to_le_bytes().repeat(k);
        let mut node = graph.node.iter().find(|node| node.op_type == "MatMul").unwrap().clone();
        (node.name, node.attribute) = ("endless_sum".to_owned(), vec![]);
        (node.input, node.output) = (names[..2].to_vec(), names[2..].to_vec());
        (graph.node, graph.initializer, graph.value_info) = (vec![node], vec![weights], vec![]);
        (graph.input, graph.output) = (vec![input], vec![output]);
    })
}

#[test]
fn a_layer_whose_sums_may_overflow() {
    // 2^18 products of up to 127 * 128 do not fit 32 bits.
    let k = 1 << 18;
    let folder = Folder::new();
    let model = folder.write("m.onnx", &endless_sum(k));
    let values = (0..2 * k).map(|i| if i < k { 1f32 } else { -1.0 });
    let calib = folder.write("calib.npz", &npz("in_x", &[2, 1, k as u64], values));
    let refused = convert(&folder, &model, Some(&calib), &[]);
    refused.is_refused(&["`endless_sum` (MatMul, as linear)", "overflow", "fewer input channels", "`--weights 4`"]);
    // The remedy is one: 4-bit weights are smaller.
    let converted = convert(&folder, &model, Some(&calib), &["--weights", "4"]);
    assert_eq!(converted.code, Some(0), "{}", converted.stderr);
    let shown = shiftformer(&["inspect", &folder.path("out.sfm"), "--json"]).json();
    let bits = |key: &str| shown["ops"].as_array().unwrap().iter().map(|op| op[key].as_u64().unwrap()).max();
    assert_eq!(bits("acc_bits"), Some(29));
    assert!(bits("product_bits") <= Some(63), "{shown}");
    let table = shiftformer(&["inspect", &folder.path("out.sfm")]).stdout;
    assert!(["acc bits", "product bits", "wide bits", "sum bits"].iter().all(|title| table.contains(title)), "{table}");
}

#[test]
fn dynamic_shapes_without_a_size() {
    let model = changed_onnx(|model| {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let Some(Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
            panic!("the input is a tensor")
        };
        let value = Some(dimension::Value::DimParam("rows".to_owned()));
        tensor.shape.as_mut().unwrap().dim[2] = Dimension { value, ..Dimension::default() };
    });
    let folder = Folder::new();
    let path = folder.write("m.onnx", &model);
    convert(&folder, &path, Some(&bundled("calib.npz")), &DIGITS).is_refused(&["--dim rows="]);
    let sized = convert(&folder, &path, Some(&bundled("calib.npz")), &[&DIGITS[..], &["--dim", "rows=8"]].concat());
    assert_eq!(sized.code, Some(0), "{}", sized.stderr);
    convert(&folder, &path, None, &["--dim", "rows"]).is_refused(&["NAME=VALUE"]);
}

#[test]
fn weights_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY] {
        let model = changed_onnx(|model| {
            let weights = &mut model.graph.as_mut().unwrap().initializer;
            let tensor = weights.iter_mut().max_by_key(|t| t.raw_data.len()).unwrap();
            tensor.raw_data[..4].copy_from_slice(&bad.to_le_bytes());
        });
        let folder = Folder::new();
        let path = folder.write("m.onnx", &model);
        convert(&folder, &path, Some(&bundled("calib.npz")), &DIGITS).is_refused(&[]);
    }
}

#[test]
fn calibration_data_that_does_not_fit() {
    let folder = Folder::new();
    let model = bundled("digits-vit.onnx");
    let cases: [(&[u8], &[&str]); 7] = [
        (b"no archive", &["not an npz file"]),
        (&npz::<f32>("in_other", &[1, 64], vec![0.5; 64]), &["in_image", "in_other"]),
        (&npz::<f32>("other", &[1, 64], vec![0.5; 64]), &["in_<input name>"]),
        (&npz::<f32>("in_image", &[2, 63], vec![0.5; 126]), &["image", "64", "63"]),
        (&npz::<f32>("in_image", &[0, 64], vec![]), &["no samples"]),
        (&npz::<u64>("in_image", &[1, 64], vec![1; 64]), &["in_image", "u8, i8, i16"]),
        (&npz::<f32>("in_image", &[1, 64], vec![f32::NAN; 64]), &["NaN"]),
    ];
    for (bytes, parts) in cases {
        let data = folder.write("calib.npz", bytes);
        convert(&folder, &model, Some(&data), &[]).is_refused(parts);
    }
    convert(&folder, &model, Some(&folder.path("absent.npz")), &[]).is_refused(&["absent.npz"]);
    convert(&folder, &model, None, &[]).is_refused(&["--calib", "in_image"]);
}

#[test]
fn calibration_data_of_the_wrong_range_is_survived() {
    let folder = Folder::new();
    let model = bundled("digits-vit.onnx");
    for values in [vec![0.0f32; 64], vec![1e30; 64], vec![-1e-30; 64]] {
        let data = folder.write("calib.npz", &npz("in_image", &[1, 1, 1, 8, 8], values));
        let ended = convert(&folder, &model, Some(&data), &[]);
        assert!(matches!(ended.code, Some(0 | 2)), "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("internal error") && !ended.stdout.contains("NaN"),
            "{}{}",
            ended.stderr,
            ended.stdout
        );
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::new();
    let (model, calib) = (bundled("digits-vit.onnx"), bundled("calib.npz"));
    for out in [folder.path("absent/out.sfm"), folder.path("")] {
        shiftformer(&["convert", &model, "-o", &out, "--calib", &calib])
            .is_refused(&["cannot write", "choose another path"]);
    }
    let (out, report) = (folder.path("out.sfm"), folder.path("absent/report.html"));
    shiftformer(&["convert", &model, "-o", &out, "--calib", &calib, "--report", &report]).is_refused(&["report.html"]);
    assert!(folder.files().is_empty());
    shiftformer(&["codegen", &digits_arg(), "-o", &folder.path("absent/m.rs")]).is_refused(&["cannot write"]);
}

#[cfg(unix)]
#[test]
fn devices_without_an_end() {
    let folder = Folder::new();
    let (endless, out) = ("/dev/zero", folder.path("out.sfm"));
    shiftformer(&["inspect", endless]).is_refused(&[endless, "no file"]);
    shiftformer(&["convert", endless, "-o", &out]).is_refused(&[endless, "no file"]);
    shiftformer(&["eval", &digits_arg(), "--data", endless]).is_refused(&[endless, "no file"]);
    assert!(folder.files().is_empty());
}

#[test]
fn a_model_truncated_at_any_length() {
    let whole = std::fs::read(digits()).unwrap();
    for length in 0..whole.len() {
        assert!(ModelFile::from_bytes(&whole[..length]).is_err(), "{length} bytes");
    }
    let folder = Folder::new();
    for length in [0, 3, 4, 47, 48, 200, whole.len() - 1] {
        let part = folder.write("part.sfm", &whole[..length]);
        shiftformer(&["inspect", &part]).is_refused(&["part.sfm"]);
    }
}

#[test]
fn a_model_with_any_bit_flipped() {
    let mut file = std::fs::read(digits()).unwrap();
    // Every bit of header and section table, then every 211th: a prime that meets all bit positions and all sections.
    let bits = (0..256 * 8).chain((256 * 8..file.len() * 8).step_by(211));
    for bit in bits {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(ModelFile::from_bytes(&file).is_err(), "bit {bit}");
        file[bit / 8] ^= 1 << (bit % 8);
    }
    let folder = Folder::new();
    for byte in [0, 5, 9, 17, 100, file.len() / 2, file.len() - 1] {
        file[byte] ^= 0x10;
        let broken = folder.write("broken.sfm", &file);
        shiftformer(&["inspect", &broken]).is_refused(&["broken.sfm"]);
        shiftformer(&["run", &broken, "--data", &bundled("eval.npz")]).is_refused(&["broken.sfm"]);
        file[byte] ^= 0x10;
    }
}

#[test]
fn a_model_of_a_newer_version() {
    use shiftformer::format::field;
    let mut file = std::fs::read(digits()).unwrap();
    file[field::MAJOR] += 1;
    let folder = Folder::new();
    let newer = folder.write("newer.sfm", &file);
    shiftformer(&["inspect", &newer]).is_refused(&["format 2.0", "update or convert again"]);
}

#[test]
fn data_that_does_not_fit_the_model() {
    let folder = Folder::new();
    let model = digits_arg();
    let short = folder.write("short.npz", &npz::<u8>("in_image", &[1, 63], vec![0; 63]));
    shiftformer(&["run", &model, "--data", &short]).is_refused(&["image", "64", "63"]);
    let other = folder.write("other.npz", &npz::<u8>("in_pixels", &[1, 64], vec![0; 64]));
    shiftformer(&["eval", &model, "--data", &other]).is_refused(&["in_image", "in_pixels"]);
    shiftformer(&["run", &model, "--data", &bundled("eval.npz"), "--index", "360"]).is_refused(&["359"]);
    let nan = folder.write("nan.npz", &npz::<f32>("in_image", &[1, 64], vec![f32::NAN; 64]));
    shiftformer(&["eval", &model, "--data", &nan]).is_refused(&["image"]);
}

#[test]
fn arguments_that_make_no_sense() {
    let (model, data) = (digits_arg(), bundled("eval.npz"));
    let cases: [&[&str]; 15] = [
        &["frobnicate"],
        &[],
        &["eval", &model],
        &["eval", &model, "--data", &data, "--shard", "3/2"],
        &["eval", &model, "--data", &data, "--limit", "0"],
        &["eval", &model, "--data", &data, "--backend", "abacus"],
        &["parity", &model, "--data", &data, "--backends", "portable"],
        &["parity", &model, "--data", &data, "--backends", "portable,abacus"],
        &["parity", &model, "--data", &data, "--backends", "portable,portable@corrupt-weight:999999999"],
        &["fit", &model, "--board", "abacus"],
        &["bench", &model, "--threads", "0"],
        &["eval", &model, "--data", &data, "--threads", "0"],
        &["run", &model, "--data", &data, "--threads", "1000000"],
        &["merge", &data],
        &["convert", &bundled("digits-vit.onnx"), "-o", "/nowhere/x.sfm", "--weights", "mixed"],
    ];
    for args in cases {
        let ended = shiftformer(args);
        if args.is_empty() {
            assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        } else {
            ended.is_refused(&[]);
        }
    }
}
