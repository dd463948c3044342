"""Converts public pre-trained models and measures them, on the data that `field_models.py` makes.

    pip install numpy onnxruntime
    cargo build --release
    python scripts/field_measure.py OUT [NAME ...] [--bench] [--report docs/field-models.md]

For each model of OUT: the time that `convert` takes with its default options, SQNR over the evaluation samples, and what
the model is for: share of equal answers (magika, ocr-cls), of equal characters after CTC decoding (ocr-rec), cosine of
embeddings (minilm), the largest difference of scores on positives (wake-*). --bench adds the latency of a sample beside
onnxruntime f32, one thread each, the smallest of several runs. SHIFTFORMER names another command.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHIFTFORMER = os.environ.get("SHIFTFORMER", str(ROOT / "target/release/shiftformer"))
NAMES = ["magika", "ocr-cls", "ocr-rec", "minilm", "wake-alexa", "wake-jarvis", "focus-encoder", "focus"]
# From this score on openWakeWord calls a window positive.
POSITIVE = 0.5
BENCH_RUNS = 40


def call(*arguments):
    done = subprocess.run([SHIFTFORMER, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def sqnr(right, found):
    noise = float(((right - found) ** 2).sum())
    return 10 * np.log10(float((right**2).sum()) / noise) if noise > 0 else float("inf")


def ctc(logits):
    """Texts of `[time, classes]`: repeated classes once, blanks (class 0) left out."""
    best = logits.reshape(-1, logits.shape[-1]).argmax(-1)
    return [int(c) for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]


def distance(a, b):
    """Edits from `a` to `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def purpose(name, right, found):
    """What the model is for, in words."""
    if name == "ocr-rec":
        pairs = [(ctc(a), ctc(b)) for a, b in zip(right, found)]
        edits = sum(distance(a, b) for a, b in pairs)
        return f"{100 * (1 - edits / sum(len(a) for a, _ in pairs)):.2f} % of characters"
    flat = [v.reshape(len(v), -1) for v in (right, found)]
    if name in ("minilm", "focus", "focus-encoder"):
        lengths = np.linalg.norm(flat[0], axis=1) * np.linalg.norm(flat[1], axis=1)
        cosine = (flat[0] * flat[1]).sum(1) / lengths
        return f"mean cosine {cosine.mean():.5f}, least {cosine.min():.5f}"
    if name.startswith("wake"):
        positive = flat[0] >= POSITIVE
        off = np.abs(flat[0] - flat[1])
        largest = f"{off[positive].max():.3f}" if positive.any() else "-"
        return f"scores within {largest} on {positive.sum()} positives, {off.max():.3f} on all"
    return f"{100 * (flat[0].argmax(1) == flat[1].argmax(1)).mean():.2f} % of answers"


def outputs(model, inputs, count, folder):
    """The first output over the first `count` samples, `[count, ..]`."""
    rows = []
    for index in range(count):
        # One sample a file: a command then need not read the others.
        np.savez(folder / "one.npz", **{f"in_{name}": values[index : index + 1] for name, values in inputs.items()})
        code, text, error = call("run", model, "--data", folder / "one.npz", "--json", "--backend", "native")
        if code:
            raise SystemExit(error)
        output = json.loads(text)["outputs"][0]
        rows.append(np.array(output["values"], np.float64).reshape(output["shape"]))
    return np.stack(rows)


def latency(model, onnx_model, inputs, folder):
    """Milliseconds of a sample: ours, and of onnxruntime f32, one thread each."""
    np.savez(folder / "few.npz", **{f"in_{name}": values[:4] for name, values in inputs.items()})
    code, text, error = call("bench", model, "--data", folder / "few.npz", "--json")
    if code:
        raise SystemExit(error)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(onnx_model), options, providers=["CPUExecutionProvider"])
    feed, times = {name: values[:1] for name, values in inputs.items()}, []
    for _ in range(BENCH_RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return json.loads(text), 1e3 * min(times)


def encoder(source, out):
    """`focus` up to its last LayerNorm, with data of its own."""
    import onnx

    out.mkdir(exist_ok=True)
    graph = onnx.load(source / "model.onnx").graph
    last = [node for node in graph.node if node.op_type == "Sqrt"][-1].output[0]
    for kind in ("Div", "Mul", "Add"):
        last = next(node for node in graph.node if node.op_type == kind and last in node.input).output[0]
    onnx.utils.extract_model(str(source / "model.onnx"), str(out / "model.onnx"), [graph.input[0].name], [last])
    shutil.copy(source / "convert.txt", out)
    session = ort.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    for file in ("calib", "eval"):
        images = np.load(source / f"{file}.npz")[f"in_{graph.input[0].name}"]
        right = [session.run(None, {graph.input[0].name: image[None]})[0][0] for image in images]
        np.savez(out / f"{file}.npz", **{f"in_{graph.input[0].name}": images, f"out_{last}": np.stack(right)})


def measure(folder, bench, limit):
    name = folder.name
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        model = temporary / "model.sfm"
        options = (folder / "convert.txt").read_text().split()
        start = time.perf_counter()
        code, text, error = call("convert", folder / "model.onnx", "-o", model, "--calib", folder / "calib.npz", *options, "--json")
        seconds = time.perf_counter() - start
        if code:
            return [name, f"refused: {error.strip().splitlines()[-1][:160]}", "", f"{seconds:.0f}", ""]
        data = np.load(folder / "eval.npz")
        inputs = {key[3:]: data[key] for key in data.files if key.startswith("in_")}
        right = next(data[key] for key in data.files if key.startswith("out_")).astype(np.float64)
        count = min(limit or len(right), len(right))
        found = outputs(model, inputs, count, temporary)
        right = right[:count].reshape(found.shape)
        speed = ""
        if bench:
            ours, theirs = latency(model, folder / "model.onnx", inputs, temporary)
            speed = f"{ours['least_ms']:.2f} ({theirs:.2f})"
        return [name, purpose(name, right, found), f"{sqnr(right, found):.1f}", f"{seconds:.0f}", speed]


HEAD = """# Public pre-trained models

Written by `scripts/field_measure.py` from the data of `scripts/field_models.py`, which names the packages that the models
come in. Default options of `convert`; {count} evaluation samples each, none of them among the calibration samples. On
{machine}.

"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--limit", type=int, default=192, help="evaluation samples at most")
    parser.add_argument("--report", type=pathlib.Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names or NAMES:
        folder = arguments.out / name
        if name == "focus-encoder" and not folder.exists():
            encoder(arguments.out / "focus", folder)
        rows.append(measure(folder, arguments.bench, arguments.limit))
        print(" | ".join(rows[-1]), flush=True)
        if arguments.report:
            heads = ["model", "what it is for", "SQNR, dB", "conversion, s", "ms a sample (onnxruntime f32)"]
            lines = ["| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *rows]]
            machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
            head = HEAD.format(count=f"up to {arguments.limit}", machine=machine)
            arguments.report.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
