//! The bundled digits model, read by the importer and by tract.
#![cfg(feature = "tract")]

use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::{Graph, Op};
use shiftformer_convert::import::{ImportOptions, import};
use shiftformer_lab::cross_check::{Comparison, with_tract};
use std::path::{Path, PathBuf};

fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits").join(name)
}

/// With the graph as `change` leaves it.
fn compared(name: &str, change: impl FnOnce(&mut Graph)) -> Comparison {
    let mut graph = import(&digits(name), &ImportOptions::default()).unwrap();
    change(&mut graph);
    with_tract(&digits(name), &graph, &fuse(graph.clone()), None)
}

#[test]
fn bundled_models_are_read_alike() {
    for name in ["digits-vit.onnx", "digits-vit-qdq.onnx", "digits-vit-qdq-u8.onnx"] {
        let comparison = compared(name, |_| {});
        assert_eq!(comparison.warnings(), Vec::<String>::new(), "{name}");
        assert!(comparison.tensors > 50 && comparison.skipped.is_none(), "{name}: {comparison:?}");
    }
}

/// A wrong graph names the node where it is wrong, although everything behind it differs too.
#[test]
fn wrong_node_is_named() {
    let mut name = String::new();
    let comparison = compared("digits-vit.onnx", |graph| {
        let index = graph.nodes.iter().rposition(|node| node.op == Op::Softmax).expect("attention");
        let node = &mut graph.nodes[index];
        node.op = Op::Reshape;
        name.clone_from(&node.name);
    });
    let difference = comparison.difference.as_ref().expect("a difference");
    assert_eq!((&difference.node, difference.operator.as_str(), difference.nodes), (&name, "Softmax", 1));
    assert!(comparison.warnings()[0].contains(&format!("`{name}` (Softmax)")), "{:?}", comparison.warnings());
}
