#!/usr/bin/env python3
"""Runs the node tests of the installed onnx package through shiftformer and writes docs/conformance.md.

    pip install onnx numpy onnxruntime
    cargo build --release
    python scripts/conformance.py [--only REGEX] [--jobs N] [--wrapped] [--report docs/conformance.md]

Each test becomes one to four runs, which differ in the operands that are inputs; the others are stored in the model.
Opsets above 25 are set to 25. A run converts the model with 20 samples (the test's own values and 19 variations of
them), runs the same samples and compares with the reference: the test's stored output, onnx's ReferenceEvaluator and,
where that has no answer, onnxruntime.

    right      25 dB or more; integers and booleans: 98 % of the values equal
    fair       20 to 25 dB
    wrong      below, or another shape
    refused    exit code 2 with a message
    broken     a panic, a hang, another exit code
    n/a        empty tensors, values that are not finite, opset 1, operators that opset 25 does not have

With --wrapped the runs that are right are repeated between other nodes (behind a transpose, a linear layer, Q/DQ; in
front of LayerNorm, Softmax, a residual, ..), 4 samples each.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from multiprocessing import Pool
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SHIFTFORMER = os.environ.get("SHIFTFORMER", str(ROOT / "target/release/shiftformer"))
SAMPLES = 20
WRAPPED_SAMPLES = 4
NEWEST_OPSET = 25
RIGHT_DB, FAIR_DB = 25.0, 20.0
# Share of integer outputs that must be equal.
EQUAL = 0.98
# Of one command, beyond which it hangs.
SECONDS = 120

FLOATS = {T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16}
INTEGERS = {T.INT64, T.INT32, T.INT16, T.INT8, T.UINT8, T.UINT16, T.UINT32, T.UINT64}

# Operands that are stored in the model in every run: shapes, axes, weights, scales.
PARAMETERS = {
    "Conv": [1, 2], "ConvTranspose": [1, 2], "Gemm": [1, 2], "BatchNormalization": [1, 2, 3, 4],
    "LayerNormalization": [1, 2], "RMSNormalization": [1], "GroupNormalization": [1, 2],
    "InstanceNormalization": [1, 2], "PRelu": [1], "RotaryEmbedding": [1, 2, 3], "Clip": [1, 2], "Pad": [1, 2, 3],
    "Resize": [1, 2, 3], "QuantizeLinear": [1, 2], "DequantizeLinear": [1, 2], "OneHot": [1, 2], "Upsample": [1],
    "CastLike": [1], "Range": [0, 1, 2], "QLinearConv": [1, 2, 3, 4, 5, 6, 7], "QLinearMatMul": [1, 2, 4, 5, 6, 7],
    "MatMulInteger": [1, 2, 3], "ConvInteger": [1, 2, 3], "Dropout": [1, 2], "CausalConvWithState": [1, 2],
    "TensorScatter": [2], "Trilu": [1], "CumSum": [1], "TopK": [1], "Slice": [1, 2, 3, 4], "Reshape": [1],
    "Expand": [1], "Tile": [1], "Squeeze": [1], "Unsqueeze": [1], "Split": [1], "Gather": [1], "GatherElements": [1],
    "GatherND": [1], "ScatterND": [1], "ScatterElements": [1], "Scatter": [1], "CenterCropPad": [1],
}  # fmt: skip
# Operators of several tensors: runs with the first or the last one alone as input.
SEVERAL = set(
    "Add Sub Mul Div MatMul Pow Max Min Sum Mean Where Equal Greater GreaterOrEqual Less LessOrEqual Einsum Mod And Or "
    "Xor Concat ScatterND ScatterElements Scatter TensorScatter SwiGLU".split()
)
# Operators whose integer operands are inputs in the run with all inputs.
INTEGER_INPUTS = set(
    "Gather OneHot Where Equal Greater Less Attention GatherND GatherElements ScatterND ScatterElements Add "
    "TensorScatter".split()
)
# Training, text, sequences, recurrence, detection: not the task.
LEFT_OUT = set(
    "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss BitShift GridSample DFT NonMaxSuppression ImageDecoder Momentum "
    "Adagrad Adam TfIdfVectorizer Unique StringSplit StringNormalizer StringConcat RegexFullMatch SequenceMap "
    "SequenceInsert SplitToSequence OptionalHasElement OptionalGetElement LabelEncoder ArrayFeatureExtractor Binarizer "
    "TreeEnsemble Loop Scan LSTM GRU RNN AffineGrid Bernoulli RoiAlign STFT MaxUnpool BlackmanWindow HammingWindow "
    "HannWindow MelWeightMatrix Det ReverseSequence Compress BitCast BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Col2Im "
    "DeformConv Acosh Asinh Atanh Cosh Sinh Acos Asin Tan".split()
)
NOT_APPLICABLE = re.compile(
    r"holds (NaN|inf|-inf)|becomes (inf|NaN)|needs \d+ values|dynamic dimensions|cannot be reshaped|parts of \[0|"
    r"opset 1 is|operand is missing, mistyped|sum of empty"
)
WRAPS = "qdq scaled transposed slice residual linear layer_norm softmax relu_linear reshape shared".split()


def base_name(test):
    return re.sub(r"_expanded.*$", "", test)


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def storable(value):
    """As an array that npz and shiftformer know."""
    value = np.asarray(value)
    if value.dtype.kind not in "fiub" or value.dtype.name == "bfloat16":
        value = value.astype(np.float32)
    return value.astype(np.int64) if value.dtype in (np.uint16, np.uint32, np.uint64) else value


def variations(value, name, elem, random):
    """SAMPLES values of the shape of `value`, itself first."""
    samples = [value]
    shuffled = elem in INTEGERS and not any(word in name for word in ("indices", "axes", "len"))
    shuffled |= elem in INTEGERS and "indices" in name and value.ndim == 1
    shuffled |= elem == T.BOOL and "mask" not in name
    for _ in range(SAMPLES - 1):
        if elem in FLOATS and value.size and "mask" not in name and np.isfinite(value.astype(np.float64)).all():
            flat = value.astype(np.float64)
            varied = random.permutation(flat.ravel()).reshape(flat.shape) * random.uniform(0.8, 1.25, flat.shape)
            samples.append(varied.astype(np.float32).astype(value.dtype))
        elif shuffled and value.ndim > 0:
            samples.append(random.permutation(value.ravel()).reshape(value.shape))
        else:
            samples.append(value)
    return samples


def input_choices(op, names, elems):
    """Which operands are inputs, by name of the choice, each choice once."""
    stored = set(PARAMETERS.get(op, []))
    floats = [i for i, elem in enumerate(elems) if elem in FLOATS]
    integers = [i for i, elem in enumerate(elems) if elem in INTEGERS]
    booleans = [i for i, elem in enumerate(elems) if elem == T.BOOL]
    usual = [i for i in floats if i not in stored]
    if op == "Attention":
        usual = floats + booleans
    elif op == "Where":
        usual = floats or integers
    usual = usual or [i for i in integers + booleans if i not in stored]
    choices = {"std": usual, "all": floats + booleans + (integers if op in INTEGER_INPUTS else [])}
    if stored & set(floats):
        choices["all"] = usual + floats + booleans
    candidates = floats if len(floats) > 1 else [] if floats else integers
    if op in SEVERAL and len(candidates) > 1:
        choices |= {"first": candidates[:1], "last": candidates[-1:]}
    if op == "Attention" and len(names) > 3:
        choices["maskconst"] = [i for i in floats if "mask" not in names[i]]
    once = {}
    for choice, places in choices.items():
        places = tuple(sorted(set(places)))
        if places and places not in once.values():
            once[choice] = places
    return once


def with_constants(model, constants):
    """The model with inputs as stored tensors, in an opset that shiftformer knows."""
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    elems = {i.name: i.type.tensor_type.elem_type for i in baked.graph.input}
    kept = [i for i in baked.graph.input if i.name not in constants]
    del baked.graph.input[:]
    baked.graph.input.extend(kept)
    for name, value in constants.items():
        if elems[name] == T.BFLOAT16:
            flat = value.astype(np.float32).ravel().tolist()
            baked.graph.initializer.append(helper.make_tensor(name, T.BFLOAT16, value.shape, flat))
        else:
            baked.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    for opset in baked.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, NEWEST_OPSET)
    baked.ir_version = min(baked.ir_version, 11)
    return baked


def reference(model, samples):
    """Outputs of every sample; None where nobody can tell."""
    feeds = [{name: values[i] for name, values in samples.items()} for i in range(len(next(iter(samples.values()))))]
    try:
        evaluator = ReferenceEvaluator(model)
        return [evaluator.run(None, feed) for feed in feeds]
    except Exception:  # noqa: BLE001 - whatever the reference cannot do, the other engine may
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(model.SerializeToString(), options)
            return [session.run(None, feed) for feed in feeds]
        except Exception:  # noqa: BLE001
            return None


def agrees(outputs, expected):
    for a, b in zip(outputs, expected):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return False
        rough = a.dtype.itemsize < 4
        a, b = a.astype(np.float64), b.astype(np.float64)
        if not np.allclose(a, b, rtol=2e-2 if rough else 1e-3, atol=1e-2 if rough else 1e-5, equal_nan=True):
            return False
    return True


def call(*arguments):
    environment = dict(os.environ, RAYON_NUM_THREADS="1")
    try:
        done = subprocess.run(
            [SHIFTFORMER, *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS, env=environment
        )
        return done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        return "timeout", "", ""


def sqnr(expected, given):
    signal, noise = float((expected**2).sum()), float(((expected - given) ** 2).sum())
    if noise == 0:
        return 200.0
    # Beside an output of zeros only zeros are right.
    return 10 * np.log10(signal / noise) if signal > 0 else (100.0 if np.abs(given).max() < 1e-6 else -200.0)


def judge(folder, model, samples, outputs, picked):
    """Converts and runs; the class, the message, and dB."""
    names = [output.name for output in model.graph.output]
    arrays = {f"in_{name}": np.stack([storable(v) for v in values]) for name, values in samples.items()}
    expected = {}
    for place, name in enumerate(names):
        values = [storable(output[place]) for output in outputs]
        if all(value.shape == values[0].shape for value in values):
            expected[name] = np.stack(values)
    arrays |= {f"out_{name}": value for name, value in expected.items()}
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "d.npz", **arrays)
    code, text, error = call(
        "convert", folder / "m.onnx", "-o", folder / "m.sfm", "--calib", folder / "d.npz", "--json"
    )
    finite = all(np.isfinite(value.astype(np.float64)).all() for value in arrays.values())
    if code == 2 and "panicked" not in error:
        return ("n/a" if NOT_APPLICABLE.search(error) else "refused"), error.strip(), None
    # The conversion measures itself: below its limit it writes nothing.
    if code == 1 and "panicked" not in error and not (folder / "m.sfm").exists():
        return "refused", error.strip(), None
    if code != 0 or "panicked" in error:
        return "broken", (error or text).strip()[-400:], None
    if not finite:
        return "n/a", "not finite", None
    given = collections.defaultdict(list)
    for sample in picked:
        code, text, error = call(
            "run", folder / "m.sfm", "--data", folder / "d.npz", "--index", sample, "--json", "--backend", "native"
        )
        if code != 0:
            return "broken" if code not in (1, 2) or "panicked" in error else "wrong", error.strip()[-400:], None
        for name, output in zip(names, json.loads(text)["outputs"]):
            given[name].append((list(output["shape"]), np.array(output["values"], dtype=np.float64)))
    worst = 200.0
    for name, value in expected.items():
        if value.size == 0:
            continue
        if any(shape != list(value.shape[1:]) for shape, _ in given[name]):
            return "wrong", f"shape {given[name][0][0]} for {list(value.shape[1:])}", None
        right = value[picked].astype(np.float64).ravel()
        found = np.stack([v.ravel() for _, v in given[name]]).ravel()
        quality = sqnr(right, found)
        if value.dtype.kind in "biu":
            quality = 200.0 if (right == found).mean() == 1 else quality
            quality = min(quality, FAIR_DB - 1) if (right == found).mean() < EQUAL else quality
        worst = min(worst, quality)
    kind = "right" if worst >= RIGHT_DB else "fair" if worst >= FAIR_DB else "wrong"
    return kind, "", round(float(worst), 1)


def single(job):
    test, choice, op, places, serialized, inputs, stored = job
    result = {"test": test, "choice": choice, "op": op}
    try:
        model = onnx.load_from_string(serialized)
        names = [i.name for i in model.graph.input]
        elems = [i.type.tensor_type.elem_type for i in model.graph.input]
        constants = {names[i]: inputs[i] for i in range(len(names)) if i not in places}
        baked = with_constants(model, constants)
        try:
            onnx.checker.check_model(baked, full_check=False)
        except Exception:  # noqa: BLE001
            return result | {"class": "n/a", "message": f"not in opset {NEWEST_OPSET}", "db": None}
        random = np.random.default_rng(int.from_bytes(test.encode(), "little") % 2**31)
        samples = {names[i]: variations(inputs[i], names[i], elems[i], random) for i in places}
        outputs = reference(baked, samples)
        if outputs is None or not agrees(outputs[0], stored):
            samples = {name: [values[0]] * SAMPLES for name, values in samples.items()}
            outputs = [stored] * SAMPLES
        with tempfile.TemporaryDirectory() as folder:
            kind, message, quality = judge(Path(folder), baked, samples, outputs, list(range(SAMPLES)))
            if kind == "right" and KEEP:
                kept = Path(KEEP) / f"{test}__{choice}"
                kept.mkdir(parents=True, exist_ok=True)
                for name in ("m.onnx", "d.npz"):
                    shutil.copy(Path(folder) / name, kept)
        return result | {"class": kind, "message": message, "db": quality}
    except Exception as error:  # noqa: BLE001 - a fault of this script is shown as such
        return result | {"class": "script", "message": f"{type(error).__name__}: {error}"[:300], "db": None}


KEEP = None


def single_jobs(only):
    from onnx.backend.test.case.node import collect_testcases

    tests = collect_testcases(None)
    ops = {t.name: t.model.graph.node[-1].op_type for t in tests if t.model.graph.node and "_expanded" not in t.name}
    jobs, left_out = [], 0
    for test in tests:
        if only and not re.search(only, test.name):
            continue
        graph = test.model.graph
        op = ops.get(base_name(test.name), graph.node[-1].op_type)
        values = [*graph.input, *graph.output]
        plain = all(v.type.HasField("tensor_type") for v in values)
        known = plain and all(v.type.tensor_type.elem_type in FLOATS | INTEGERS | {T.BOOL} for v in values)
        foreign = any(o.domain.startswith("ai.onnx.ml") or "training" in o.domain for o in test.model.opset_import)
        if op in LEFT_OUT or foreign or not known or not test.data_sets:
            left_out += 1
            continue
        inputs, outputs = ([array(v) for v in part] for part in test.data_sets[0])
        if len(inputs) < len(graph.input):
            left_out += 1
            continue
        names = [i.name for i in graph.input]
        elems = [i.type.tensor_type.elem_type for i in graph.input]
        for choice, places in input_choices(op, names, elems).items():
            jobs.append((test.name, choice, op, places, test.model.SerializeToString(), inputs, outputs))
    return jobs, left_out


class Wrap:
    """A model between other nodes, with samples that fit it; `done` where something was added."""

    def __init__(self, model, samples, random):
        self.model = onnx.ModelProto.FromString(model.SerializeToString())
        self.graph = self.model.graph
        self.samples = {name: values.copy() for name, values in samples.items()}
        self.random = random
        self.opset = next(o.version for o in model.opset_import if o.domain == "")
        self.before, self.behind, self.constants, self.done = [], [], 0, False

    def constant(self, value):
        self.constants += 1
        name = f"wrap_{self.constants}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def input_from(self, value, shape, nodes):
        """`value` is computed from an input of `shape`."""
        self.before += nodes
        value.type.CopyFrom(helper.make_tensor_type_proto(T.FLOAT, shape))
        self.samples[value.name + "_w"] = self.samples.pop(value.name)
        value.name += "_w"
        self.done = True

    def output_through(self, value, shape, nodes):
        self.behind += nodes
        value.name += "_o"
        value.type.CopyFrom(helper.make_tensor_type_proto(T.FLOAT, shape))
        self.done = True

    def finish(self):
        nodes = [*self.before, *self.graph.node, *self.behind]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        return self.model, self.samples


def wrap_input(w, kind, value):
    shape, name = [d.dim_value for d in value.type.tensor_type.shape.dim], value.name
    node, constant, x = helper.make_node, w.constant, w.samples[value.name]
    raw = name + "_w"
    if kind == "scaled":
        w.input_from(value, shape, [node("Mul", [raw, constant(np.float32(1.5))], [name])])
    elif kind == "qdq" and w.opset >= 10:
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        scale = np.float32((high - low) / 255 or 1 / 128)
        scale_zero = [constant(scale), constant(np.uint8(np.clip(round(-low / scale), 0, 255)))]
        quantized = node("QuantizeLinear", [raw, *scale_zero], [name + "_q"])
        w.input_from(value, shape, [quantized, node("DequantizeLinear", [name + "_q", *scale_zero], [name])])
    elif kind == "transposed" and len(shape) > 1:
        perm = list(range(len(shape)))[::-1]
        w.input_from(value, shape[::-1], [node("Transpose", [raw], [name], perm=perm)])
        w.samples[raw] = x.transpose([0, *(p + 1 for p in perm)])
    elif kind == "slice" and shape and w.opset >= 10:
        wider = [*shape[:-1], shape[-1] + 2]
        ends = [constant(np.array([at])) for at in (1, shape[-1] + 1, -1)]
        w.input_from(value, wider, [node("Slice", [raw, *ends], [name])])
        edge = w.random.permutation(x.ravel())[:1].repeat(2 * int(np.prod(x.shape[:-1]))).reshape(*x.shape[:-1], 2)
        w.samples[raw] = np.concatenate([edge[..., :1], x, edge[..., 1:]], -1).astype(x.dtype)
    elif kind in ("linear", "relu_linear") and len(shape) >= 2:
        k = shape[-1]
        weights = (np.eye(k) + 0.1 * np.abs(w.random.standard_normal((k, k)))).astype(np.float32)
        nodes = [node("MatMul", [raw, constant(weights)], [name if kind == "linear" else name + "_m"])]
        if kind == "relu_linear":
            nodes += [node("Relu", [name + "_m"], [name + "_r"])]
            nodes += [node("Add", [name + "_r", constant(np.float32(0.1))], [name])]
        w.input_from(value, shape, nodes)
    elif kind == "reshape" and shape:
        target = constant(np.array(shape, np.int64))
        w.input_from(value, [int(np.prod(shape))], [node("Reshape", [raw, target], [name])])
        w.samples[raw] = x.reshape(len(x), -1)


def wrap_output(w, kind, value, inputs):
    shape, name = [d.dim_value for d in value.type.tensor_type.shape.dim], value.name
    node, constant, new = helper.make_node, w.constant, value.name + "_o"
    if kind == "scaled":
        nodes = [node("Mul", [name, constant(np.float32(2))], [name + "_t"])]
        w.output_through(value, shape, [*nodes, node("Add", [name + "_t", constant(np.float32(0.25))], [new])])
    elif kind == "transposed" and len(shape) > 1:
        perm = list(range(len(shape)))[::-1]
        w.output_through(value, shape[::-1], [node("Transpose", [name], [new], perm=perm)])
    elif kind == "slice" and shape and shape[-1] > 1 and w.opset >= 10:
        ends = [constant(np.array([at])) for at in (-1, -99, -1, -1)]
        w.output_through(value, shape, [node("Slice", [name, *ends], [new])])
    elif kind == "residual":
        alike = [i.name for i in inputs if [d.dim_value for d in i.type.tensor_type.shape.dim] == shape]
        if alike:
            w.output_through(value, shape, [node("Add", [name, alike[0]], [new])])
    elif kind in ("linear", "relu_linear") and len(shape) >= 2:
        weights = constant(w.random.standard_normal((shape[-1], 5)).astype(np.float32))
        w.output_through(value, [*shape[:-1], 5], [node("MatMul", [name, weights], [new])])
    elif kind == "layer_norm" and len(shape) >= 2 and shape[-1] > 1 and w.opset >= 17:
        gamma = constant(np.ones(shape[-1], np.float32))
        w.output_through(value, shape, [node("LayerNormalization", [name, gamma], [new], axis=-1)])
    elif kind == "softmax" and len(shape) >= 2 and shape[-1] > 1:
        axis = -1 if w.opset >= 13 else len(shape) - 1
        w.output_through(value, shape, [node("Softmax", [name], [new], axis=axis)])
    elif kind == "reshape" and len(shape) >= 2:
        first = shape[0] * shape[-1]
        rest = int(np.prod(shape)) // max(1, first)
        w.output_through(value, [first, rest], [node("Reshape", [name, constant(np.array([first, -1]))], [new])])


def wrapped(job):
    source, kind = job
    result = {"test": source.name, "choice": kind, "op": kind}
    try:
        model, data = onnx.load(source / "m.onnx"), np.load(source / "d.npz")
        samples = {key[3:]: data[key] for key in data.files if key.startswith("in_")}
        w = Wrap(model, samples, np.random.default_rng(7))
        inputs = [i for i in w.graph.input if i.type.tensor_type.elem_type == T.FLOAT]
        outputs = [o for o in w.graph.output if o.type.tensor_type.elem_type == T.FLOAT]
        if kind == "shared" and inputs and inputs[0].type.tensor_type.shape.dim:
            # One reader in 16 bits and one in 8 besides.
            shape, name = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim], inputs[0].name
            half = w.constant(np.full(shape[-1], 0.5, np.float32))
            w.behind += [helper.make_node("Mul", [name, half], ["wide"]), helper.make_node("Tanh", [name], ["narrow"])]
            w.graph.output.extend(helper.make_tensor_value_info(n, T.FLOAT, shape) for n in ("wide", "narrow"))
            w.done = True
        for value in inputs:
            wrap_input(w, kind, value)
        for value in outputs if kind != "shared" else []:
            wrap_output(w, kind, value, inputs)
        if not w.done:
            return result | {"class": "n/a", "message": "", "db": None}
        model, samples = w.finish()
        types = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
        samples = {name: list(values.astype(types[name])) for name, values in samples.items()}
        references = reference(model, samples)
        if references is None:
            return result | {"class": "n/a", "message": "no reference", "db": None}
        count = len(references)
        picked = [0, 1, count // 2, count - 1][:WRAPPED_SAMPLES]
        with tempfile.TemporaryDirectory() as folder:
            judged, message, quality = judge(Path(folder), model, samples, references, picked)
        return result | {"class": judged, "message": message, "db": quality}
    except Exception as error:  # noqa: BLE001
        return result | {"class": "script", "message": f"{type(error).__name__}: {error}"[:300], "db": None}


def run(function, jobs, count, what):
    results = []
    with Pool(count) as pool:
        for result in pool.imap_unordered(function, jobs, chunksize=4):
            results.append(result)
            if len(results) % 200 == 0:
                print(f"{what}: {len(results)} of {len(jobs)}", flush=True)
    return sorted(results, key=lambda r: (r["test"], r["choice"]))


CLASSES = ["right", "fair", "wrong", "refused", "broken", "n/a", "script"]


def table(rows, heads):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def reason(message):
    """The part of a message that says why, without names and numbers of this model."""
    line = message.replace("\n", " ").removeprefix("error: ")
    line = re.sub(r"^\S*m\.onnx: ", "", line)
    line = re.sub(r"^\d+ (unsupported operator\(s\):|operator\(s\) have no integer form:) *", "", line)
    line = re.sub(r"`[^`]*`", "`..`", line)
    line = re.sub(r"\[[\d, ]*\]", "[..]", line)
    return re.sub(r"\b\d[\d.]*\b", "N", line).replace("|", "\\|")[:160]


def report(results, between, left_out):
    def counts(rows):
        found = collections.Counter(r["class"] for r in rows)
        return [found[c] for c in CLASSES[:6]]

    def expanded(r):
        return "_expanded" in r["test"]

    alone = [r for r in results if not expanded(r)]
    groups = [("operators", alone), ("function bodies", [r for r in results if expanded(r)])]
    rows = [(name, len(rows), *counts(rows)) for name, rows in [*groups, ("all", results)]]
    if between:
        rows.append(("between other nodes", len(between), *counts(between)))
    by_op = collections.defaultdict(list)
    for result in results:
        by_op[result["op"]].append(result)
    ops = [(f"`{op}`", len(runs), *counts(runs)) for op, runs in sorted(by_op.items())]
    reasons = collections.Counter((r["op"], reason(r["message"])) for r in results if r["class"] == "refused")
    ordered = sorted(reasons.items(), key=lambda item: (item[0][0], -item[1]))
    refusals = [(f"`{op}`", n, text) for (op, text), n in ordered]
    faults = [(r["test"], r["choice"], r["class"], r["db"], r["message"][:120].replace("\n", " ").replace("|", "\\|"))
              for r in [*results, *between] if r["class"] in ("wrong", "broken", "script")]
    parts = [
        "# Conformance with the node tests of ONNX",
        f"Written by `scripts/conformance.py`, which says how runs are made and judged, with onnx {onnx.__version__}. "
        f"{left_out} tests are left out: training, text, sequences, recurrence, detection, element types without a "
        "counterpart. A function body is the definition of an operator by others. Counts are of runs, not of weight.",
        "## Counts",
        table(rows, ["", "runs", *CLASSES[:6]]),
        "## Wrong or broken",
        table(faults, ["test", "choice", "class", "dB", "message"]) if faults else "None.",
        "## By operator",
        table(ops, ["operator", "runs", *CLASSES[:6]]),
        "## Refused, and why",
        table(refusals, ["operator of the test", "runs", "message"]),
    ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="regular expression of test names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--wrapped", action="store_true", help="repeat what is right between other nodes")
    parser.add_argument("--report", type=Path, help="the file to write")
    parser.add_argument("--results", type=Path, help="a JSON file with every run")
    arguments = parser.parse_args()
    global KEEP
    with tempfile.TemporaryDirectory() as kept:
        KEEP = kept if arguments.wrapped else None
        jobs, left_out = single_jobs(arguments.only)
        results = run(single, jobs, arguments.jobs, "alone")
        between = []
        if arguments.wrapped:
            sources = sorted(Path(kept).iterdir())
            between = run(wrapped, [(s, k) for s in sources for k in WRAPS], arguments.jobs, "between others")
    for name, rows in (("alone", results), ("between others", between)):
        print(name, dict(collections.Counter(r["class"] for r in rows)))
    if arguments.results:
        arguments.results.write_text(json.dumps(results + between, indent=0))
    if arguments.report:
        arguments.report.write_text(report(results, between, left_out))


if __name__ == "__main__":
    main()
