//! Writes the corpora that fuzzing starts from: small ONNX models, what they convert to, and one of each cut off.
//!
//!     cargo run --release --bin corpus          in this folder

use prost::Message;
use shiftformer::kernels::Portable;
use shiftformer_convert::convert::{ConvertOptions, convert};
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::import::onnx::attribute_proto::AttributeType;
use shiftformer_convert::import::onnx::tensor_proto::DataType;
use shiftformer_convert::import::onnx::tensor_shape_proto::{Dimension, dimension};
use shiftformer_convert::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use shiftformer_convert::import::{ImportOptions, import_bytes};
use shiftformer_convert::model_file::segments::segments;
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::npz::NpzWriter;
use shiftformer_stream::image;
use shiftformer_transport::pack;
use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::Path;

/// Where the files that are cut off end, in bytes.
const CUT: [(&str, usize); 2] = [("importer/truncated.onnx", 100), ("reader/truncated.sfm", 200)];
/// Samples for calibration.
const SAMPLES: usize = 4;

/// A model with the input `x` and the output `y`.
struct Model {
    name: &'static str,
    input: &'static [i64],
    nodes: Vec<NodeProto>,
    stored: Vec<TensorProto>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |name: String, bytes: &[u8]| {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, bytes)
    };
    let mut draw = Draw(1);
    for model in models(&mut draw) {
        let (name, shape) = (model.name, model.input);
        let onnx = model.proto().encode_to_vec();
        let graph = fuse(import_bytes(&onnx, None, &ImportOptions::default())?);
        let length = shape.iter().product::<i64>() as usize;
        let samples: Vec<Vec<Values>> = (0..SAMPLES).map(|_| vec![Values::Float(draw.floats(length))]).collect();
        let options = ConvertOptions { receipts: 1, source: format!("{name}.onnx"), ..ConvertOptions::default() };
        let converted = convert(&graph, &samples, &options, &mut |_| {})?;
        write(format!("importer/{name}.onnx"), &onnx)?;
        write(format!("reader/{name}.sfm"), &converted.file)?;
        if name == "dense" {
            write("line/conversation".to_owned(), &conversation())?;
            write("transport/whole.sft".to_owned(), &pack(&converted.file, None)?)?;
            let mut changed = converted.file.clone();
            changed.iter_mut().skip(1000).step_by(50).for_each(|byte| *byte ^= 1);
            write("transport/change.sft".to_owned(), &pack(&changed, Some(&converted.file))?)?;
        }
        if name == "attention" {
            let file = ModelFile::from_bytes(&converted.file)?;
            let smallest = (1..).find_map(|kib| segments(&file, 256 * kib).ok()).unwrap_or_default();
            write("image/attention.sfi".to_owned(), &image(&smallest, file.open::<Portable>()?.arena_bytes(), &[])?)?;
        }
        for ((cut, bytes), file) in CUT.into_iter().zip([&onnx, &converted.file]) {
            write(cut.to_owned(), &file[..bytes.min(file.len())])?;
        }
    }
    let mut samples = NpzWriter::new(Cursor::new(Vec::new()));
    samples.add("in_x", &[2, 3], draw.floats(6))?;
    samples.add("label", &[2], [0i64, 1])?;
    write("npz/samples.npz".to_owned(), samples.finish()?.get_ref())?;
    write("tokenizer/tokenizer.json".to_owned(), tokenizer().as_bytes())?;
    Ok(())
}

/// Byte-pair encoding of 64 tokens: letters, digits, and pairs of letters.
fn tokenizer() -> String {
    let singles = ('a'..='z').chain('0'..='9').map(String::from);
    let pairs = ('a'..='z').map(|c| format!("e{c}")).chain(["th".to_owned(), "in".to_owned()]);
    let tokens: Vec<String> = singles.chain(pairs).collect();
    let entries: Vec<String> = tokens.iter().enumerate().map(|(id, token)| format!("\"{token}\":{id}")).collect();
    let merges: Vec<String> = tokens[36..].iter().map(|pair| format!("\"{} {}\"", &pair[..1], &pair[1..])).collect();
    format!(
        "{{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\
         \"decoder\":null,\"model\":{{\"type\":\"BPE\",\"vocab\":{{{}}},\"merges\":[{}]}}}}",
        entries.join(","),
        merges.join(",")
    )
}

/// Requests as `serve_line` reads them: kind, parameters, bytes, with zeros between.
fn conversation() -> Vec<u8> {
    let parts: [&[u8]; 6] =
        [&[9], &[1, 2, 1, 1, 1, 7, 7, 7, 7], &[2, 1, 1, 1, 1], &[3, 2, 1], &[4, 1, 1, 1, 1], &[5, 4, 1, 1, 1]];
    parts.join(&0)
}

fn models(draw: &mut Draw) -> Vec<Model> {
    let mut weights = |name: &str, dims: &[i64]| {
        let float_data = draw.floats(dims.iter().product::<i64>() as usize);
        let data_type = DataType::Float as i32;
        TensorProto { name: name.into(), dims: dims.to_vec(), data_type, float_data, ..TensorProto::default() }
    };
    let last = || vec![AttributeProto { i: -1, ..attribute("axis", AttributeType::Int) }];
    let ints =
        |name: &str, ints: &[i64]| vec![AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }];
    vec![
        Model { name: "softmax", input: &[1, 3, 8], nodes: vec![node("Softmax", &["x"], "y", last())], stored: vec![] },
        Model {
            name: "norm",
            input: &[1, 3, 8],
            nodes: vec![node("LayerNormalization", &["x", "g", "b"], "y", last())],
            stored: vec![weights("g", &[8]), weights("b", &[8])],
        },
        Model {
            name: "conv",
            input: &[1, 1, 4, 4],
            nodes: vec![node("Conv", &["x", "w"], "y", ints("strides", &[2, 2]))],
            stored: vec![weights("w", &[4, 1, 2, 2])],
        },
        Model {
            name: "dense",
            input: &[1, 3, 8],
            nodes: vec![
                node("MatMul", &["x", "w"], "a", vec![]),
                node("Add", &["a", "b"], "c", vec![]),
                node("Relu", &["c"], "y", vec![]),
            ],
            stored: vec![weights("w", &[8, 5]), weights("b", &[5])],
        },
        Model {
            name: "attention",
            input: &[1, 3, 8],
            nodes: vec![
                node("MatMul", &["x", "q"], "Q", vec![]),
                node("MatMul", &["x", "k"], "K", vec![]),
                node("MatMul", &["x", "v"], "V", vec![]),
                node("Transpose", &["K"], "Kt", ints("perm", &[0, 2, 1])),
                node("MatMul", &["Q", "Kt"], "s", vec![]),
                node("Softmax", &["s"], "p", last()),
                node("MatMul", &["p", "V"], "y", vec![]),
            ],
            stored: vec![weights("q", &[8, 8]), weights("k", &[8, 8]), weights("v", &[8, 8])],
        },
    ]
}

impl Model {
    fn proto(self) -> ModelProto {
        let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
        let float = |dims: Option<&[i64]>| {
            let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
            let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
            Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() })
        };
        let value = |name: &str, r#type| ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() };
        let graph = GraphProto {
            name: self.name.into(),
            node: self.nodes,
            initializer: self.stored,
            input: vec![value("x", float(Some(self.input)))],
            output: vec![value("y", float(None))],
            ..GraphProto::default()
        };
        let opset_import = vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }];
        ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }
    }
}

fn node(operator: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    NodeProto { op_type: operator.into(), input, output: vec![output.into()], attribute, ..NodeProto::default() }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type as i32, ..AttributeProto::default() }
}

/// Numbers from -1 to 1, the same each time: Knuth's generator, whose upper bits are the good ones.
struct Draw(u64);

impl Draw {
    fn floats(&mut self, count: usize) -> Vec<f32> {
        let next = |_| {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }
}
