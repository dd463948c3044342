use super::*;

/// `y = relu(x + b)`, the sum called `sum`.
fn graph() -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_tensor("x", vec![4], DataType::Float);
    graph.inputs.push(x);
    let b = graph.add_constant("b", vec![4], Data::Float(vec![1.0, -2.0, 3.0, -4.0]));
    let sum = graph.add_node("sum", Op::Binary(Binary::Add), vec![x, b], vec![4], DataType::Float);
    let y = graph.add_node("y", Op::Unary(Unary::Relu), vec![sum], vec![4], DataType::Float);
    graph.outputs.push(y);
    graph
}

fn reread(tensor: &str, operator: &str, values: &[f32]) -> Reread {
    let (node, operator) = (format!("node of {tensor}"), operator.to_owned());
    let data = Data::Float(values.to_vec());
    Reread { tensor: tensor.to_owned(), node, operator, shape: vec![4], data, half: false }
}

fn compared(other: Vec<Reread>) -> Comparison {
    compare(&graph(), &[Data::Float(vec![0.5; 4])], other).unwrap()
}

#[test]
fn equal_tensors_are_counted() {
    let sum = [1.5, -1.5, 3.5, -3.5];
    // Noise of one unit in the last place.
    let y = [1.5, 0.0, 3.500_000_2, 0.0];
    let comparison = compared(vec![reread("sum", "Add", &sum), reread("y", "Relu", &y)]);
    assert_eq!((comparison.tensors, comparison.difference.is_none()), (2, true));
    assert_eq!(comparison.warnings(), Vec::<String>::new());
}

/// The other reader subtracts: `y` agrees with its operand there, so that the sum alone is named.
#[test]
fn first_node_that_differs_is_named() {
    let comparison =
        compared(vec![reread("sum", "Sub", &[-0.5, 2.5, -2.5, 4.5]), reread("y", "Relu", &[0.0, 2.5, 0.0, 4.5])]);
    let difference = comparison.difference.as_ref().unwrap();
    assert_eq!((difference.node.as_str(), difference.operator.as_str(), difference.nodes), ("node of sum", "Sub", 1));
    let found = Found::Values { elements: 4, of: 4, index: 3, ours: -3.5, theirs: 4.5 };
    assert_eq!(difference.found, found);
    assert!(comparison.warnings()[0].contains("node `node of sum` (Sub)"), "{:?}", comparison.warnings());
}

#[test]
fn infinite_and_undefined_values_differ_from_finite_ones() {
    let sum = [1.5, -1.5, 3.5, -3.5];
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let comparison = compared(vec![reread("sum", "Add", &sum), reread("y", "Relu", &[1.5, wrong, 3.5, 0.0])]);
        assert!(matches!(comparison.difference.unwrap().found, Found::Values { elements: 1, index: 1, .. }));
    }
}

#[test]
fn other_shape_is_a_difference() {
    let sum = Reread { shape: vec![2, 2], ..reread("sum", "Add", &[1.5, -1.5, 3.5, -3.5]) };
    let found = compared(vec![sum]).difference.unwrap().found;
    assert_eq!(found, Found::Shape { ours: vec![4], theirs: vec![2, 2] });
}

/// A value between two points of a grid may fall on either; two of four are no noise.
#[test]
fn one_value_may_fall_on_the_next_point_of_a_grid() {
    let mut graph = Graph::default();
    let x = graph.add_tensor("x", vec![4], DataType::Float);
    graph.inputs.push(x);
    let y = graph.add_node("y", Op::Unary(Unary::Floor), vec![x], vec![4], DataType::Float);
    graph.outputs.push(y);
    let differs = |values: &[f32]| {
        let inputs = [Data::Float(vec![1.0, 2.5, 3.0, 4.5])];
        compare(&graph, &inputs, vec![reread("y", "Floor", values)]).unwrap().difference.is_some()
    };
    assert!(!differs(&[1.0, 2.0, 3.0, 4.0]));
    assert!(!differs(&[0.0, 2.0, 3.0, 4.0]));
    assert!(differs(&[0.0, 2.0, 2.0, 4.0]));
}

#[test]
fn fusion_that_changes_an_output_is_named() {
    let inputs = [Data::Float(vec![0.5; 4])];
    assert!(compare_fused(&graph(), &graph(), &inputs).unwrap().is_none());
    let mut wrong = graph();
    wrong.nodes[1].op = Op::Unary(Unary::Abs);
    let output = compare_fused(&graph(), &wrong, &inputs).unwrap().unwrap();
    assert_eq!(
        (output.output.as_str(), output.found),
        ("y", Found::Values { elements: 2, of: 4, index: 3, ours: 3.5, theirs: 0.0 })
    );
}

/// Steps of a handler and its constants may be called like its output.
#[test]
fn output_is_the_last_computed_tensor_of_a_name() {
    let mut graph = Graph::default();
    let x = graph.add_tensor("x", vec![4], DataType::Float);
    graph.inputs.push(x);
    let step = graph.add_node("y", Op::Unary(Unary::Abs), vec![x], vec![4], DataType::Float);
    let output = graph.add_node("y", Op::Unary(Unary::Sqrt), vec![step], vec![4], DataType::Float);
    graph.add_constant("y", vec![], Data::Float(vec![2.0]));
    let lone = graph.add_constant("lone", vec![], Data::Float(vec![3.0]));
    graph.add_constant("twice", vec![], Data::Float(vec![4.0]));
    graph.add_constant("twice", vec![], Data::Float(vec![5.0]));
    let names = by_name(&graph);
    assert_eq!(
        (names.get("x"), names.get("y"), names.get("lone"), names.get("twice")),
        (Some(&x), Some(&output), Some(&lone), None)
    );
}
