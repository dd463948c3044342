//! Models built by hand: what is accepted, and how each fault is reported.

use super::*;
use crate::graph::exec;
use crate::graph::{Data, Op};
use crate::import::onnx::attribute_proto::AttributeType;
use crate::import::onnx::tensor_proto::DataType as Elem;
use crate::import::onnx::tensor_shape_proto::{Dimension, dimension};
use crate::import::onnx::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let name = format!("{op}_{}", outputs.first().unwrap_or(&""));
    NodeProto { op_type: op.into(), name, input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: Elem::Float as i32,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    let dims = vec![values.len() as i64];
    TensorProto {
        name: name.into(),
        dims,
        data_type: Elem::Int64 as i32,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// `dims` are numbers or names; `?` has neither.
fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: match (text.parse(), *text) {
            (Ok(size), _) => Some(dimension::Value::DimValue(size)),
            (_, "?") => None,
            (_, name) => Some(dimension::Value::DimParam(name.into())),
        },
        ..Dimension::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Elem::Float as i32, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ..ValueInfoProto::default() }
}

/// A model from `x` to `y`.
fn model(x: &[&str], node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        node,
        initializer,
        input: vec![value("x", x)],
        output: vec![untyped("y")],
        ..GraphProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let opset_import = vec![opset("", 17), opset("com.microsoft", 1), opset("local", 1)];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }
}

fn read(model: &ModelProto) -> Result<Graph, ImportError> {
    import_bytes(&model.encode_to_vec(), None, &ImportOptions::default())
}

fn message(model: &ModelProto) -> String {
    read(model).expect_err("an error").to_string()
}

fn run(model: &ModelProto, x: &[f32]) -> Vec<f32> {
    let graph = read(model).unwrap();
    exec::run(&graph, &[Data::Float(x.to_vec())], &mut |_, _| ()).unwrap()[0].to_f32()
}

#[test]
fn all_unsupported_nodes_are_listed_with_their_nearest_form() {
    let nodes = vec![
        node("Loop", &["x"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("LSTM", &["b"], &["c"]),
        with(
            node("Pad", &["x", "pads"], &["d"]),
            AttributeProto {
                name: "mode".into(),
                r#type: AttributeType::String as i32,
                s: b"reflect".into(),
                ..AttributeProto::default()
            },
        ),
        node("Add", &["c", "d"], &["y"]),
        node("Unknown", &["x"], &["unused"]),
    ];
    let error = read(&model(&["1", "2"], nodes, vec![ints("pads", &[0, 3, 0, 0])])).unwrap_err();
    let ImportError::Unsupported(list) = &error else { panic!("{error}") };
    assert_eq!(list.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Loop", "LSTM", "Pad"]);
    assert!(list.iter().all(|n| n.version == 17 && !n.hint.is_empty()));
    assert!(error.to_string().contains("LSTM `LSTM_c` (opset 17)"), "{error}");
}

#[test]
fn attributes_that_are_not_known_are_refused() {
    let nodes = vec![with(node("Relu", &["x"], &["y"]), int("inverse", 1))];
    assert!(message(&model(&["2"], nodes, vec![])).contains("`inverse`"));
}

#[test]
fn broken_graphs_are_named() {
    let cycle = vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"]), node("Relu", &["b"], &["y"])];
    assert!(message(&model(&["2"], cycle, vec![])).contains("cycle"));
    assert!(message(&model(&["2"], vec![node("Add", &["x", "gone"], &["y"])], vec![])).contains("`gone`"));
    assert!(message(&model(&["2"], vec![node("Relu", &["x"], &["z"])], vec![])).contains("`y`"));
    assert!(message(&model(&["2"], vec![node("Add", &["x"], &["y"])], vec![])).contains("operand 1 is missing"));
    let wrong = vec![node("MatMul", &["x", "w"], &["y"])];
    assert!(message(&model(&["2", "3"], wrong, vec![floats("w", &[2, 2], &[0.0; 4])])).contains("MatMul_y"));
}

#[test]
fn bytes_that_are_no_model_are_an_error() {
    for bytes in [&b""[..], b"no model", &[0x3a, 0x80, 0x80, 0x80, 0x80, 0x7f]] {
        let error = import_bytes(bytes, None, &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, ImportError::Parse(_)), "{error}");
    }
    let whole = model(&["2"], vec![node("Relu", &["x"], &["y"])], vec![]).encode_to_vec();
    assert!(import_bytes(&whole[..whole.len() / 2], None, &ImportOptions::default()).is_err());
}

#[test]
fn the_batch_is_one_and_other_dimensions_need_a_size() {
    let relu = || vec![node("Relu", &["x"], &["y"])];
    assert_eq!(read(&model(&["N", "3"], relu(), vec![])).unwrap().tensors[0].shape, [1, 3]);
    assert_eq!(read(&model(&["4", "3"], relu(), vec![])).unwrap().tensors[0].shape, [4, 3]);
    let dynamic = model(&["N", "length", "?"], relu(), vec![]);
    assert!(message(&dynamic).contains("--dim length=VALUE --dim x.2=VALUE"), "{}", message(&dynamic));
    let sized = |dims: &[(&str, usize)]| {
        let dims = dims.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
        import_bytes(&dynamic.encode_to_vec(), None, &ImportOptions { dims })
    };
    assert_eq!(sized(&[("length", 5), ("x.2", 7), ("N", 2)]).unwrap().tensors[0].shape, [2, 5, 7]);
    assert!(sized(&[("length", 5), ("width", 7)]).unwrap_err().to_string().contains("`width`"));
    // A name that also stands elsewhere is no batch.
    assert!(message(&model(&["n", "n"], relu(), vec![])).contains("--dim n=VALUE"));
}

#[test]
fn a_wrong_declared_shape_names_the_value() {
    let mut wrong = model(&["1", "3"], vec![node("Relu", &["x"], &["y"])], vec![]);
    wrong.graph.as_mut().unwrap().output = vec![value("y", &["1", "4"])];
    assert!(message(&wrong).contains("`y`"));
}

#[test]
fn values_that_are_not_finite_are_no_weights() {
    let nodes = vec![node("MatMul", &["x", "w"], &["y"])];
    let error = message(&model(&["1", "2"], nodes, vec![floats("w", &[2, 1], &[1.0, f32::NAN])]));
    assert!(error.contains("finite"), "{error}");
}

#[test]
fn shape_arithmetic_folds_away() {
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        node("Gather", &["shape", "zero"], &["rows"]),
        node("Concat", &["rows", "rest"], &["target"]),
        node("Reshape", &["x", "target"], &["y"]),
    ];
    let nodes: Vec<NodeProto> =
        nodes.into_iter().map(|n| if n.op_type == "Concat" { with(n, int("axis", 0)) } else { n }).collect();
    let graph = read(&model(&["2", "3", "4"], nodes, vec![ints("zero", &[0]), ints("rest", &[-1])])).unwrap();
    assert_eq!(graph.nodes.len(), 1);
    assert_eq!((graph.nodes[0].op.clone(), graph.shape(graph.outputs[0])), (Op::Reshape, &[2, 12][..]));
    assert_eq!(graph.tensors[graph.outputs[0]].name, "y");
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let scaled = with(
        node("LeakyRelu", &["a"], &["b"]),
        AttributeProto {
            name: "alpha".into(),
            ref_attr_name: "slope".into(),
            r#type: AttributeType::Float as i32,
            ..AttributeProto::default()
        },
    );
    let function = |nodes: Vec<NodeProto>| FunctionProto {
        name: "Leaky".into(),
        domain: "local".into(),
        input: names(&["a"]),
        output: names(&["b"]),
        node: nodes,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..FunctionProto::default()
    };
    let slope = AttributeProto {
        name: "slope".into(),
        r#type: AttributeType::Float as i32,
        f: 0.5,
        ..AttributeProto::default()
    };
    let call = NodeProto { domain: "local".into(), ..with(node("Leaky", &["x"], &["y"]), slope) };
    let mut with_function = model(&["2"], vec![call], vec![]);
    with_function.functions = vec![function(vec![scaled])];
    assert_eq!(run(&with_function, &[-2.0, 3.0]), [-1.0, 3.0]);
    let itself = NodeProto { domain: "local".into(), ..node("Leaky", &["a"], &["b"]) };
    with_function.functions = vec![function(vec![itself])];
    assert!(message(&with_function).contains("calls itself"));
}

#[test]
fn functions_that_double_at_each_level_end() {
    let level = |i: usize| FunctionProto {
        name: format!("f{i}"),
        domain: "local".into(),
        input: names(&["a"]),
        output: names(&["c"]),
        node: (0..2)
            .map(|half| NodeProto {
                domain: "local".into(),
                ..node(&format!("f{}", i + 1), &[["a", "b"][half]], &[["b", "c"][half]])
            })
            .collect(),
        ..FunctionProto::default()
    };
    let call = NodeProto { domain: "local".into(), ..node("f0", &["x"], &["y"]) };
    let mut bomb = model(&["2"], vec![call], vec![]);
    bomb.functions = (0..22).map(level).collect();
    bomb.functions.push(FunctionProto { node: vec![node("Relu", &["a"], &["c"])], ..level(22) });
    assert!(message(&bomb).contains("more than"));
}

#[test]
fn a_constant_condition_chooses_its_branch() {
    let branch = |name: &str, op: &str| AttributeProto {
        name: name.into(),
        r#type: AttributeType::Graph as i32,
        g: Some(GraphProto {
            node: vec![node(op, &["x"], &[name])],
            output: vec![untyped(name)],
            ..GraphProto::default()
        }),
        ..AttributeProto::default()
    };
    let choice = |condition: &str| {
        let branches = with(node("If", &[condition], &["y"]), branch("then_branch", "Neg"));
        let nodes = vec![
            node("Greater", &["one", "zero"], &["yes"]),
            node("Not", &["yes"], &["no"]),
            with(branches, branch("else_branch", "Abs")),
        ];
        model(&["1"], nodes, vec![floats("one", &[], &[1.0]), floats("zero", &[], &[0.0])])
    };
    assert_eq!(run(&choice("yes"), &[3.0]), [-3.0]);
    assert_eq!(run(&choice("no"), &[-3.0]), [3.0]);
    // A condition on the input: both branches are computed.
    let mut open = choice("yes");
    open.graph.as_mut().unwrap().node[0].input[0] = "x".into();
    assert_eq!(run(&open, &[3.0]), [-3.0]);
    assert_eq!(run(&open, &[-3.0]), [3.0]);
    // Not where their shapes differ.
    let branch = open.graph.as_mut().unwrap().node[2].attribute[1].g.as_mut().unwrap();
    branch.node = vec![node("Concat", &["x", "x"], &["else_branch"])];
    branch.node[0].attribute = vec![int("axis", 0)];
    let error = message(&open);
    assert!(error.contains("depends on the input") && error.contains("[1] and [2]"), "{error}");
}

#[test]
fn remainders_have_the_sign_that_onnx_says() {
    let mod_of = |fmod: i64, whole: bool| {
        let to = |elem: Elem| int("to", elem as i64);
        let modulo = with(node("Mod", &["a", "d"], &["m"]), int("fmod", fmod));
        let cast = |from: &str, out: &str, elem: Elem| with(node("Cast", &[from], &[out]), to(elem));
        let (a, d) = match whole {
            true => (cast("x", "a", Elem::Int64), TensorProto { dims: vec![], ..ints("d", &[3]) }),
            false => (node("Identity", &["x"], &["a"]), floats("d", &[], &[2.5])),
        };
        model(&["1"], vec![a, modulo, cast("m", "y", Elem::Float)], vec![d])
    };
    let rest = |fmod, whole, x: f32| run(&mod_of(fmod, whole), &[x])[0];
    assert_eq!([7.0, -7.0, 9.0, -9.0].map(|x| rest(0, true, x)), [1.0, 2.0, 0.0, 0.0]);
    assert_eq!([7.0, -7.0, 9.0, -9.0].map(|x| rest(1, true, x)), [1.0, -1.0, 0.0, 0.0]);
    assert_eq!([6.0, -6.0, 5.0].map(|x| rest(1, false, x)), [1.0, -1.0, 0.0]);
}

#[test]
fn constants_out_of_reach_are_refused() {
    let nodes = vec![node("ConstantOfShape", &["huge"], &["c"]), node("Add", &["x", "c"], &["y"])];
    for shape in [&[1 << 40, 1 << 40][..], &[1 << 29], &[-1]] {
        assert!(read(&model(&["1"], nodes.clone(), vec![ints("huge", shape)])).is_err());
    }
    // Each step is small enough, all together are not.
    let mut nodes = vec![node("ConstantOfShape", &["large"], &["c0"])];
    nodes.extend((0..64).map(|i| node("Neg", &[&format!("c{i}")], &[&format!("c{}", i + 1)])));
    nodes.push(node("Add", &["x", "c64"], &["y"]));
    assert!(message(&model(&["1"], nodes, vec![ints("large", &[1 << 23])])).contains("out of reach"));
}

#[test]
fn inferences_out_of_reach_are_refused() {
    let sum = |i: usize| node("MatMul", &[&format!("c{i}"), &format!("c{i}")], &[&format!("c{}", i + 1)]);
    let mut nodes = vec![node("Expand", &["x", "shape"], &["c0"])];
    nodes.extend((0..64).map(sum));
    nodes.push(node("Relu", &["c64"], &["y"]));
    let error = message(&model(&["1"], nodes, vec![ints("shape", &[8192, 8192])]));
    assert!(error.contains("MatMul_c1") && error.contains("too large"), "{error}");
}

#[test]
fn softmax_before_opset_13_spans_several_dimensions() {
    let mut old = model(&["1", "2", "2"], vec![with(node("Softmax", &["x"], &["y"]), int("axis", 1))], vec![]);
    old.opset_import[0].version = 12;
    assert_eq!(run(&old, &[0.0; 4]), [0.25; 4]);
    old.opset_import[0].version = 13;
    assert_eq!(run(&old, &[0.0; 4]), [0.5; 4]);
}

#[test]
fn weights_may_lie_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let weights =
        TensorProto { data_location: 1, external_data: vec![entry("location", "w.bin")], ..floats("w", &[2, 1], &[]) };
    let beside = model(&["1", "2"], vec![node("MatMul", &["x", "w"], &["y"])], vec![weights]);
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, beside.encode_to_vec()).unwrap();
    std::fs::write(folder.path().join("w.bin"), [2.0f32, 3.0].map(f32::to_le_bytes).concat()).unwrap();
    let graph = import(&path, &ImportOptions::default()).unwrap();
    assert_eq!(graph.floats(graph.nodes[0].inputs[1]), Some(&[2.0, 3.0][..]));
    assert!(message(&beside).contains("`w`"));
    std::fs::write(folder.path().join("w.bin"), [0; 7]).unwrap();
    assert!(import(&path, &ImportOptions::default()).is_err());
    assert!(matches!(import(folder.path(), &ImportOptions::default()), Err(ImportError::Read { .. })));
}

#[test]
fn gemm_becomes_a_linear_layer_with_bias() {
    let gemm = with(node("Gemm", &["x", "w", "b"], &["y"]), int("transB", 1));
    let model = model(&["1", "2"], vec![gemm], vec![floats("w", &[1, 2], &[2.0, 3.0]), floats("b", &[1], &[10.0])]);
    let graph = read(&model).unwrap();
    assert_eq!((graph.nodes.len(), &graph.nodes[0].op, graph.nodes[0].inputs.len()), (1, &Op::Linear, 3));
    assert_eq!(run(&model, &[1.0, 1.0]), [15.0]);
}

#[test]
fn a_pair_of_quantization_and_its_inverse_is_one_node() {
    let zero = TensorProto {
        dims: vec![],
        data_type: Elem::Int8 as i32,
        int32_data: vec![3],
        name: "z".into(),
        ..TensorProto::default()
    };
    let nodes = vec![
        node("QuantizeLinear", &["x", "s", "z"], &["q"]),
        node("Transpose", &["q"], &["t"]),
        node("DequantizeLinear", &["t", "s", "z"], &["y"]),
    ];
    let pair = model(&["1", "3"], nodes, vec![floats("s", &[], &[0.5]), zero]);
    let graph = read(&pair).unwrap();
    assert!(matches!(graph.nodes[0].op, Op::FakeQuant(_)) && graph.nodes.len() == 2);
    // 100 saturates at (127 - 3) / 2; 0.75 is 1.5 steps, to even.
    assert_eq!(run(&pair, &[0.75, -0.2, 100.0]), [1.0, 0.0, 62.0]);
    let arithmetic = vec![node("QuantizeLinear", &["x", "s"], &["q"]), node("Relu", &["q"], &["y"])];
    assert!(message(&model(&["1", "3"], arithmetic, vec![floats("s", &[], &[0.5])])).contains("QDQ"));
}

/// A small generator of repeatable choices (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Integers at which shape arithmetic tends to break.
    fn number(&mut self) -> i64 {
        *self.pick(&[0, 1, 2, 3, 7, 64, 65, -1, -2, 1 << 20, 1 << 31, 1 << 62, i64::MAX, i64::MIN])
    }
}

const OPS: [&str; 44] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Einsum",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gemm",
    "GroupNormalization",
    "LayerNormalization",
    "MatMul",
    "MaxPool",
    "Mod",
    "NonZero",
    "OneHot",
    "Pad",
    "QuantizeLinear",
    "Range",
    "ReduceMean",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
];
const ATTRIBUTES: [&str; 19] = [
    "axes",
    "axis",
    "blocksize",
    "dilations",
    "ends",
    "group",
    "k",
    "keepdims",
    "kernel_shape",
    "num_groups",
    "num_outputs",
    "pads",
    "perm",
    "split",
    "starts",
    "steps",
    "strides",
    "to",
    "ceil_mode",
];

/// Another operator, operand, attribute, stored integer or declared size at a random place.
fn mutate(graph: &mut GraphProto, random: &mut Random) {
    let at = random.below(graph.node.len());
    let values: Vec<String> = graph.node[..at]
        .iter()
        .flat_map(|n| n.output.clone())
        .chain(graph.initializer.iter().map(|t| t.name.clone()))
        .collect();
    let node = &mut graph.node[at];
    match random.below(7) {
        0 => node.op_type = (*random.pick(&OPS)).into(),
        1 if !values.is_empty() => node.input.push(random.pick(&values).clone()),
        2 if !values.is_empty() && !node.input.is_empty() => {
            let operand = random.below(node.input.len());
            node.input[operand] = random.pick(&values).clone();
        }
        3 => {
            let name = (*random.pick(&ATTRIBUTES)).to_owned();
            let list = (0..random.below(5)).map(|_| random.number()).collect();
            let kind = *random.pick(&[AttributeType::Int, AttributeType::Ints]);
            node.attribute.retain(|a| a.name != name);
            node.attribute.push(AttributeProto {
                name,
                r#type: kind as i32,
                i: random.number(),
                ints: list,
                ..AttributeProto::default()
            });
        }
        4 => {
            let stored = random.below(graph.initializer.len());
            let values: Vec<i64> = (0..random.below(6)).map(|_| random.number()).collect();
            graph.initializer[stored] = ints(&graph.initializer[stored].name.clone(), &values);
        }
        5 => {
            let Some(type_proto::Value::TensorType(tensor)) =
                graph.input[0].r#type.as_mut().and_then(|t| t.value.as_mut())
            else {
                return;
            };
            let dims = tensor.shape.get_or_insert_default();
            if let Some(dim) = dims.dim.last_mut() {
                dim.value = Some(dimension::Value::DimValue(random.number()));
            }
        }
        _ => {
            for attribute in &mut node.attribute {
                attribute.i = random.number();
                attribute.ints.iter_mut().for_each(|v| *v = random.number());
                if let Some(tensor) = &mut attribute.t {
                    *tensor = ints("", &[random.number(), random.number()]);
                }
            }
        }
    }
}

/// `SHIFTFORMER_MUTATIONS` asks for more rounds.
#[test]
fn mutated_structure_gives_a_graph_that_can_be_executed_or_an_error() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/digits-vit.onnx");
    let original = ModelProto::decode(&std::fs::read(path).unwrap()[..]).unwrap();
    let mut random = Random(0x5eed);
    let rounds = std::env::var("SHIFTFORMER_MUTATIONS").ok().map_or(1000, |rounds| rounds.parse().unwrap());
    let mut graphs = 0;
    for round in 0..rounds {
        let mut model = original.clone();
        let graph = model.graph.as_mut().unwrap();
        // Without declared shapes more of the nonsense gets through.
        graph.value_info.clear();
        graph.output[0].r#type = None;
        for _ in 0..=random.below(3) {
            mutate(graph, &mut random);
        }
        let start = std::time::Instant::now();
        let result = read(&model);
        assert!(start.elapsed().as_secs() < 20, "round {round} took {:?}", start.elapsed());
        match result {
            Err(error) => assert!(!matches!(error, ImportError::Internal(_)), "round {round}: {error}"),
            Ok(graph) => {
                graphs += 1;
                // The executor checks every shape that the importer has promised.
                let size = graph.tensors[graph.inputs[0]].len();
                if graph.tensors.iter().map(|t| t.len()).max() < Some(1 << 20) {
                    let result = exec::run(&graph, &[Data::Float(vec![0.5; size])], &mut |_, _| ());
                    assert!(result.is_ok(), "round {round}: {}", result.unwrap_err());
                }
            }
        }
    }
    assert!(graphs > rounds / 20, "only {graphs} of {rounds} mutations gave a graph");
}
