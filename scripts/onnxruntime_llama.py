"""The dense layers of a Llama of 110 M parameters in onnxruntime, one token on one thread: what `shiftformer bench` of
`cargo run --release -p shiftformer-cli --example llama -- llama.sfm [4|8]` stands beside.

Random weights; MatMulNBits with 4 and 8 bits in blocks of 32 (accuracy level 4: products of 8-bit integers), and dynamic
8-bit quantization (DynamicQuantizeLinear, MatMulInteger). Attention, norms and activations are left out: the figures are those
of the products alone. Prints milliseconds for a token and for a prompt of 128, and a plain read of as many bytes.

    python scripts/onnxruntime_llama.py --shiftformer target/release/shiftformer --models llama8.sfm llama4.sfm
"""

import argparse
import statistics
import subprocess
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH, LAYERS, HIDDEN, VOCABULARY, BLOCK = 768, 12, 2048, 32000, 32
# Input and output width of the layers, one after the other; `up` has the input of `gate`, which stands for the gated values.
SHAPES = [(WIDTH, WIDTH)] * 4 + [(WIDTH, HIDDEN)] * 2 + [(HIDDEN, WIDTH)]
rng = np.random.default_rng(0)


def constant(graph, name, array):
    graph["initializers"].append(numpy_helper.from_array(array, name))
    return name


def n_bits(graph, name, x, k, n, bits):
    blocks = k // BLOCK
    packed = rng.integers(0, 256, (n, blocks, BLOCK * bits // 8), dtype=np.uint8)
    scales = np.full(n * blocks, 1e-3, np.float32)
    inputs = [x, constant(graph, name + ".w", packed), constant(graph, name + ".s", scales)]
    attributes = dict(K=k, N=n, bits=bits, block_size=BLOCK, accuracy_level=4)
    graph["nodes"].append(helper.make_node("MatMulNBits", inputs, [name], domain="com.microsoft", **attributes))
    return name


def dynamic(graph, name, x, k, n, _bits):
    weights = constant(graph, name + ".w", rng.integers(-127, 128, (k, n), dtype=np.int8))
    scale = constant(graph, name + ".s", np.float32(1e-4))
    zero = constant(graph, name + ".z", np.int8(0))
    names = [f"{name}.{part}" for part in ("q", "qs", "qz", "acc", "float", "scale")]
    q, qs, qz, acc, float_acc, both = names
    graph["nodes"] += [
        helper.make_node("DynamicQuantizeLinear", [x], [q, qs, qz]),
        helper.make_node("MatMulInteger", [q, weights, qz, zero], [acc]),
        helper.make_node("Cast", [acc], [float_acc], to=TensorProto.FLOAT),
        helper.make_node("Mul", [qs, scale], [both]),
        helper.make_node("Mul", [float_acc, both], [name]),
    ]
    return name


def session(layer, bits):
    graph = {"nodes": [], "initializers": []}
    x = "x"
    for index in range(LAYERS):
        parts = []
        for part, (k, n) in enumerate(SHAPES):
            # Queries, keys, values read one input; so do gate and up.
            source = {0: x, 1: x, 2: x, 3: parts[2] if len(parts) > 2 else x, 6: parts[5] if len(parts) > 5 else x}
            parts.append(layer(graph, f"l{index}.{part}", source.get(part, parts[3] if len(parts) > 3 else x), k, n, bits))
        total = f"l{index}.sum"
        graph["nodes"].append(helper.make_node("Sum", [parts[6], parts[0], parts[1]], [total]))
        gate = f"l{index}.gate"
        graph["nodes"].append(helper.make_node("ReduceMax", [parts[4]], [gate], keepdims=1))
        x = f"l{index}.out"
        graph["nodes"].append(helper.make_node("Add", [total, gate], [x]))
    logits = layer(graph, "head", x, WIDTH, VOCABULARY, bits)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", WIDTH])]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["tokens", VOCABULARY])]
    made = helper.make_graph(graph["nodes"], "llama", inputs, outputs, graph["initializers"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def milliseconds(run, least=11, seconds=2.0):
    run()
    times, start = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - start < seconds and len(times) < 200):
        # Processor time: other programs on the machine do not count.
        before = time.process_time()
        run()
        times.append((time.process_time() - before) * 1e3)
    return statistics.median(times)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--shiftformer", help="the command, to run its bench in the same run")
    arguments.add_argument("--models", nargs="*", default=[], help="what the example `llama` wrote")
    arguments = arguments.parse_args()
    parameters = LAYERS * sum(k * n for k, n in SHAPES) + WIDTH * VOCABULARY
    print(f"onnxruntime {onnxruntime.__version__}, {parameters / 1e6:.1f} M weights, one thread, processor time")
    for name, layer, bits in [("MatMulNBits", n_bits, 8), ("MatMulNBits", n_bits, 4), ("dynamic", dynamic, 8)]:
        run = session(layer, bits)
        token, prompt = (rng.standard_normal((n, WIDTH), dtype=np.float32) for n in (1, 128))
        one, many = (milliseconds(lambda: run.run(None, {"x": x})) for x in (token, prompt))
        rate = parameters * bits / 8 / one / 1e6
        print(f"{name} {bits} bit: one token {one:.2f} ms, {rate:.2f} GB/s of weights; prompt of 128 {many:.1f} ms")
        del run
    read = rng.integers(0, 256, parameters, dtype=np.uint8).view(np.uint64)
    print(f"plain read: {read.nbytes / milliseconds(lambda: read.max()) / 1e6:.2f} GB/s")
    for model in arguments.models if arguments.shiftformer else []:
        print(model)
        subprocess.run([arguments.shiftformer, "bench", model], check=True)


if __name__ == "__main__":
    main()
