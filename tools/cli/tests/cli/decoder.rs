//! Decoders from an ONNX file to generated tokens.

use crate::harness::{Ended, Folder, digits_arg, npz, shiftformer};
use prost::Message;
use shiftformer_convert::import::onnx::attribute_proto::AttributeType;
use shiftformer_convert::import::onnx::tensor_proto::DataType as Elem;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

const VOCABULARY: usize = 12;
const WIDTH: usize = 8;

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        op_type: op.into(),
        name: output.into(),
        input,
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn tensor(name: &str, dims: [usize; 2], seed: u64) -> TensorProto {
    let value = |i: u64| {
        let mixed = (i + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        mixed as f32 / (1 << 23) as f32 - 1.0
    };
    TensorProto {
        name: name.into(),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Elem::Float as i32,
        float_data: (0..(dims[0] * dims[1]) as u64).map(value).collect(),
        ..Default::default()
    }
}

fn value(name: &str, elem: Elem, dims: &[&str]) -> ValueInfoProto {
    let dim = |name: &&str| Dimension { value: Some(dimension::Value::DimParam((*name).into())), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: elem as i32, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

/// One attention between embedding and head.
fn model() -> Vec<u8> {
    let heads = vec![int("q_num_heads", 2), int("kv_num_heads", 2), int("is_causal", 1)];
    let nodes = vec![
        node("Gather", &["table", "input_ids"], "x", vec![]),
        node("MatMul", &["x", "wq"], "q", vec![]),
        node("MatMul", &["x", "wk"], "k", vec![]),
        node("MatMul", &["x", "wv"], "v", vec![]),
        node("Attention", &["q", "k", "v"], "y", heads),
        node("Add", &["x", "y"], "sum", vec![]),
        node("MatMul", &["sum", "head"], "logits", vec![]),
    ];
    let square = [WIDTH, WIDTH];
    let initializer = vec![
        tensor("table", [VOCABULARY, WIDTH], 3),
        tensor("wq", square, 5),
        tensor("wk", square, 7),
        tensor("wv", square, 11),
        tensor("head", [WIDTH, VOCABULARY], 13),
    ];
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![value("input_ids", Elem::Int64, &["batch", "length"])],
        output: vec![value("logits", Elem::Float, &["batch", "length", "vocabulary"])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 23 }];
    ModelProto { ir_version: 10, graph: Some(graph), opset_import, ..Default::default() }.encode_to_vec()
}

fn sequences(tokens: usize, vocabulary: usize) -> Vec<u8> {
    let ids = (0..6 * tokens).map(|i| ((i * i + i / tokens) % vocabulary) as i64);
    npz("ids", &[6, tokens as u64], ids)
}

fn convert(folder: &Folder, more: &[&str]) -> Ended {
    let model = folder.write("m.onnx", &model());
    let calib = folder.write("seq.npz", &sequences(10, VOCABULARY));
    let out = folder.path("m.sfm");
    let mut args = vec!["convert", &model, "-o", &out, "--calib", &calib];
    args.extend(more);
    shiftformer(&args)
}

#[test]
fn tokens_come_out_alike_on_all_kernels() {
    let folder = Folder::new();
    let json = convert(&folder, &["--context", "8", "--prefill", "3", "--json"]).json();
    assert_eq!(json["state"]["positions"], 8);
    assert_eq!(json["state"]["bytes"], 2 * 8 * WIDTH);
    assert!(json["sqnr_db"].as_f64().unwrap() > 24.0, "{json}");
    let file = folder.path("m.sfm");
    let generate = |more: &[&str]| {
        let mut args = vec!["generate", &file, "--prompt-ids", "1,2,3,4", "--json"];
        args.extend(more);
        shiftformer(&args)
    };
    let native = generate(&["--tokens", "4"]).json();
    let tokens = native["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.iter().all(|token| token.as_u64().unwrap() < VOCABULARY as u64));
    assert!(native["first_token_s"].as_f64().unwrap() > 0.0 && native["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(generate(&["--tokens", "4", "--backend", "portable"]).json()["tokens"], native["tokens"]);
    // Four positions are left, and the last token needs none.
    assert_eq!(generate(&["--tokens", "99"]).json()["tokens"].as_array().unwrap().len(), 5);
    let streamed = shiftformer(&["generate", &file, "--prompt-ids", "1,2,3,4", "--tokens", "4"]);
    let words: Vec<u64> = streamed.stdout.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(serde_json::json!(words), native["tokens"]);
    assert!(streamed.stderr.contains("tokens/s"), "{}", streamed.stderr);

    let data = folder.path("seq.npz");
    let eval = shiftformer(&["eval", &file, "--data", &data, "--json"]);
    assert!(eval.stderr.contains("12 of 60 tokens are beyond the context of 8"), "{}", eval.stderr);
    let eval = eval.json();
    assert_eq!(eval["tokens"], 48);
    assert!(eval["bits_per_token"].as_f64().unwrap() > 0.0 && eval["sqnr_db"].is_null());
    let parity = ["parity", &file, "--data", &data, "--backends", "portable,native"];
    let equal = shiftformer(&parity);
    assert!(equal.stdout.contains("equal: logits of 48 tokens of 6 sequences"), "{}", equal.stdout);
    if std::env::var("SHIFTFORMER_NO_GPU").is_ok_and(|v| v == "1") {
        eprintln!("SKIPPED: SHIFTFORMER_NO_GPU=1");
    } else {
        assert_eq!(generate(&["--tokens", "4", "--backend", "gpu"]).json()["tokens"], native["tokens"]);
        let equal = shiftformer(&["parity", &file, "--data", &data, "--backends", "portable,gpu"]);
        assert!(equal.stdout.contains("equal: logits of 48 tokens of 6 sequences"), "{}", equal.stdout);
    }
    let bench = shiftformer(&["bench", &file, "--json"]).json();
    assert_eq!(bench["decoder"]["prompt"], 4);
    assert!(bench["decoder"]["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(bench["decoder"]["bytes_per_token"].as_u64().unwrap() > 2 * 4 * WIDTH as u64);
    let inspect = shiftformer(&["inspect", &file]);
    assert!(inspect.stdout.contains("8 positions, runs of up to 3 tokens"), "{}", inspect.stdout);
}

#[test]
fn a_text_is_as_good_as_sequences() {
    let folder = Folder::new();
    let model = folder.write("m.onnx", &model());
    // Two rows of eight characters, and three that fill no row.
    let text = folder.write("text.txt", b"abcdefghlkjihgfeabc");
    let out = folder.path("m.sfm");
    let convert = |tokenizer: &[&str]| {
        let mut args = vec!["convert", &model, "-o", &out, "--calib", &text, "--context", "8", "--accept-sqnr", "0"];
        args.extend(tokenizer);
        shiftformer(&args)
    };
    convert(&[]).is_refused(&["text.txt is a text", "--tokenizer"]);
    assert_eq!(convert(&["--tokenizer", "characters:abcdefghijkl"]).code, Some(0));
    let eval = shiftformer(&["eval", &out, "--data", &text, "--json"]).json();
    assert_eq!((&eval["tokens"], &eval["sequences"]), (&serde_json::json!(16), &serde_json::json!(2)));
    // One byte a token.
    assert_eq!(eval["bits_per_byte"], eval["bits_per_token"]);
    let wide = folder.write("wide.txt", "a\u{e9}".as_bytes());
    shiftformer(&["eval", &out, "--data", &wide]).is_refused(&["wide.txt"]);
    let bytes = folder.write("bytes.txt", &[0xff, 0xfe, 0]);
    shiftformer(&["eval", &out, "--data", &bytes]).is_refused(&["neither an npz file nor a text"]);
}

#[test]
fn what_does_not_fit_a_decoder_is_refused() {
    let folder = Folder::new();
    for (context, words) in [("0", "--context 0"), ("1", "--context 1")] {
        convert(&folder, &["--context", context]).is_refused(&[words]);
    }
    convert(&folder, &["--context", "8", "--prefill", "9"]).is_refused(&["--prefill"]);
    let bare = shiftformer(&["convert", &folder.path("m.onnx"), "-o", &folder.path("a.sfm"), "--context", "8"]);
    bare.is_refused(&["ids [sequences, length]"]);
    let wrong = folder.write("wrong.npz", &sequences(10, VOCABULARY + 1));
    let args = ["convert", &folder.path("m.onnx"), "-o", &folder.path("a.sfm"), "--context", "8", "--calib", &wrong];
    shiftformer(&args).is_refused(&["holds the token 12", "the vocabulary has 12 tokens"]);
    assert_eq!(convert(&folder, &["--context", "8"]).code, Some(0));
    let file = folder.path("m.sfm");
    let generate = |prompt: &str| shiftformer(&["generate", &file, "--prompt-ids", prompt]);
    generate("1,12").is_refused(&["token 12", "12 tokens"]);
    generate("1,1,1,1,1,1,1,1,1").is_refused(&["9 tokens", "context of the model has 8"]);
    shiftformer(&["generate", &file, "--prompt-ids", "1", "--backend", "nowhere"]).is_refused(&["nowhere"]);
    shiftformer(&["generate", &digits_arg(), "--prompt-ids", "1"]).is_refused(&["no decoder"]);
}
