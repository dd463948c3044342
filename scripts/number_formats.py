"""Makes the figures of docs/number-formats.md.

    pip install numpy
    cargo build --release
    python scripts/number_formats.py embeddings --field OUT [--write docs/number-formats.md]
    python scripts/number_formats.py lmul --digits models/digits [--mnist DIR] [--kwt DIR] [--write docs/number-formats.md]
    python scripts/number_formats.py lookup --lookup OUT [--write docs/number-formats.md]

`embeddings` takes the folder `minilm` that `field_models.py` has made in OUT: all-MiniLM-L6-v2, whose table of words has
30,522 rows of 384. Each row of the table is one conversion with `--activations 8 --range minmax --equalize off` over 16
calibration samples, so that nothing but the table differs. Cosines and rankings are those of sentences that were no calibration samples, against the float
model: every sentence is a query, all others are ranked by their cosine to it.

`lmul` converts each model with `--profile lmul` in every format and without it, and counts instructions under QEMU.
`lookup` takes the models that `train_lookup.py --depth 2 --chunk 4 --name lookup4` and `--chunk 8 --name lookup8` have written to
OUT. Instructions are those of single layers of the first block on an emulated Cortex-M0.

SHIFTFORMER names another command. With --write the tables replace those between the markers of the page.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHIFTFORMER = os.environ.get("SHIFTFORMER", str(ROOT / "target/release/shiftformer"))
TABLES = ["", "int8", "int4", "pq:128", "pq:96", "pq:64", "pq:48"]
CALIBRATION = 16
NEAREST = 10


def call(*arguments):
    done = subprocess.run([SHIFTFORMER, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return json.loads(done.stdout)


def convert(folder, model, calib, output, *options):
    return call("convert", model, "--calib", calib, "-o", output, "--json", *options)


def embeddings_of(model, inputs, count, folder):
    rows = []
    for index in range(count):
        # One sample a file: a command then need not read the others.
        np.savez(folder / "one.npz", **{f"in_{name}": values[index : index + 1] for name, values in inputs.items()})
        found = call("run", model, "--data", folder / "one.npz", "--json", "--backend", "native")
        rows.append(np.array(found["outputs"][0]["values"], np.float64).reshape(-1))
    return np.stack(rows)


def ranked(vectors):
    """For every vector the others, nearest first."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :-1]


def spearman(right, found):
    """Mean rank correlation of rankings of the same numbers."""
    count = right.shape[1]
    values = []
    for a, b in zip(right, found):
        place = np.empty(a.max() + 2, int)
        place[b] = np.arange(count)
        difference = place[a] - np.arange(count)
        values.append(1 - 6 * float((difference**2).sum()) / (count * (count**2 - 1)))
    return float(np.mean(values))


def embedding_rows(field, count):
    source = field / "minilm"
    data = np.load(source / "eval.npz")
    inputs = {name.removeprefix("in_"): data[name][:count] for name in data.files if name.startswith("in_")}
    right = data["out_sentence_embedding"][:count].reshape(count, -1).astype(np.float64)
    rows = ["| `--embeddings` | table, bytes | times fewer than int8 | element SQNR, dB | mean cosine | minimum | first hit | of 10 nearest | rank correlation |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for table in TABLES:
            model = folder / "model.sfm"
            option = ["--embeddings", table] if table else []
            done = convert(folder, source / "model.onnx", source / "calib.npz", model, "--activations", "8", "--range",
                           "minmax", "--equalize", "off", "--calib-samples", CALIBRATION, *option)
            note = re.search(r"`words`.*takes (\d+) bytes.*, ([\d.]+) times.*elements ([\d.]+) dB", "\n".join(done["notes"]))
            size, fewer, sqnr = note.groups() if note else (str(30522 * 384), "1.0", "")
            found = embeddings_of(model, inputs, count, folder)
            cosine = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
            a, b = ranked(right), ranked(found)
            first = float((a[:, 0] == b[:, 0]).mean())
            nearest = float(np.mean([len(set(x[:NEAREST]) & set(y[:NEAREST])) / NEAREST for x, y in zip(a, b)]))
            rows.append(f"| {table or 'none'} | {int(size):,} | {fewer} | {sqnr} | {cosine.mean():.4f} | {cosine.min():.4f} | "
                        f"{100 * first:.1f} % | {100 * nearest:.1f} % | {spearman(a, b):.4f} |")
            print(rows[-1], flush=True)
    return rows


LAYERS = ("linear", "lmul_linear")


def per_product(model, backend):
    """Instructions of the dense layers by product, the tables before them included; None without the emulator."""
    try:
        ops = call("bench", model, "--backend", backend, "--json")["ops"]
    except SystemExit:
        return None
    dense = [op for op in ops if op["kind"] in LAYERS and op["macs"]]
    return sum(op["instructions"] for op in dense) / sum(op["macs"] for op in dense)


def lmul_rows(models):
    rows = ["| model | products | SQNR, dB | accuracy | agreement with float | instructions a product, M0 | M4 |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model.sfm"
        for name, (onnx, calib, data, pixels) in models.items():
            for form in ("", "e4m3", "e5m2", "bf16"):
                option = ["--profile", "lmul", "--lmul-format", form] if form else []
                convert(folder, onnx, calib, model, "--activations", "8", "--accept-sqnr", "-20", *pixels, *option)
                score = call("eval", model, "--data", data, "--float", onnx, "--json")
                counts = [per_product(model, f"qemu:{board}") for board in ("m0-large", "mps2-an386")]
                percent = lambda v: "-" if v is None else f"{100 * v:.2f} %"
                cells = ["-" if c is None else f"{c:.1f}" for c in counts]
                rows.append(f"| {name} | {'L-Mul ' + form if form else '8 bits'} | {score['sqnr_db']:.1f} | "
                            f"{percent(score['accuracy'])} | {percent(score['agreement'])} | {cells[0]} | {cells[1]} |")
                print(rows[-1], flush=True)
    return rows


LAYERS_OF_BLOCK = [("fc1", "16 x 32 x 64"), ("fc2", "16 x 64 x 32"), ("qkv", "16 x 32 x 96"), ("proj", "16 x 32 x 32")]


def lookup_rows(folder):
    """The bundled digits model beside those of `train_lookup.py`: what the layers of a block cost, and what the models answer."""
    titles = [f"instructions of {size}" for _, size in LAYERS_OF_BLOCK]
    rows = ["| layers | weights of a block, bytes | accuracy (float) | SQNR, dB | " + " | ".join(titles) + " |",
            "| --- " * (4 + len(titles)) + "|"]
    digits = ROOT / "models/digits"
    models = [("dense, 8 bits", digits / "digits-vit.onnx", digits / "eval.npz")]
    for chunk in (4, 8):
        models.append((f"look-ups, chunks of {chunk}", folder / f"lookup{chunk}.onnx", folder / f"lookup{chunk}.npz"))
    with tempfile.TemporaryDirectory() as made:
        model = pathlib.Path(made) / "model.sfm"
        for title, onnx, data in models:
            if not onnx.exists():
                continue
            convert(made, onnx, digits / "calib.npz", model, "--mean", "0.3057", "--std", "0.376", "--activations", "8",
                    "--accept-sqnr", "3")
            found = call("eval", model, "--data", data, "--float", onnx, "--json")
            ops = call("bench", model, "--backend", "qemu:m0-large", "--json")["ops"]
            counts, weights = [], 0
            for layer, size in LAYERS_OF_BLOCK:
                [op] = [op for op in ops if op["kind"] in ("linear", "lookup_linear")
                        and "blocks.0" in op["name"] and layer in op["name"]]
                counts.append(f"{op['instructions']:,}")
                _, k, n = (int(d) for d in size.split(" x "))
                chunk = int(title.split()[-1]) if op["kind"] == "lookup_linear" else 0
                weights += (k // chunk << chunk if chunk else k) * n
            rows.append(f"| {title} | {weights:,} | {100 * found['accuracy']:.2f} % ({100 * found['float_accuracy']:.2f} %) | "
                        f"{found['sqnr_db']:.1f} | {' | '.join(counts)} |")
            print(rows[-1], flush=True)
    return rows


def write(path, name, rows):
    text = path.read_text()
    begin, end = f"<!-- {name}: scripts/number_formats.py -->\n", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    after = rest.split(end, 1)[1]
    path.write_text(before + begin + "\n".join(rows) + "\n" + end + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["embeddings", "lmul", "lookup"])
    parser.add_argument("--field", type=pathlib.Path, help="folder that field_models.py has made")
    parser.add_argument("--count", type=int, default=128, help="sentences")
    parser.add_argument("--digits", type=pathlib.Path, default=ROOT / "models/digits")
    parser.add_argument("--mnist", type=pathlib.Path, help="folder with mnist-vit.onnx, calib.npz, eval.npz")
    parser.add_argument("--kwt", type=pathlib.Path, help="folder with kwt1.onnx, eval.npz")
    parser.add_argument("--lookup", type=pathlib.Path, help="folder that train_lookup.py has written to")
    parser.add_argument("--write", type=pathlib.Path, help="the page")
    args = parser.parse_args()
    if args.what == "embeddings":
        rows = embedding_rows(args.field, args.count)
    elif args.what == "lookup":
        rows = lookup_rows(args.lookup)
    else:
        # Mean and standard deviation of the pixels that the models were trained with.
        pixels = {"digits": ("--mean", "0.3057", "--std", "0.376"), "MNIST": ("--mean", "0.1307", "--std", "0.3081"), "KWT-1": ()}
        files = {"digits": (args.digits, "digits-vit.onnx", "calib.npz")}
        if args.mnist:
            files["MNIST"] = (args.mnist, "mnist-vit.onnx", "calib.npz")
        if args.kwt:
            files["KWT-1"] = (args.kwt, "kwt1.onnx", "eval.npz")
        models = {name: (folder / onnx, folder / calib, folder / "eval.npz", pixels[name])
                  for name, (folder, onnx, calib) in files.items()}
        rows = lmul_rows(models)
    if args.write:
        write(args.write, args.what, rows)


if __name__ == "__main__":
    main()
