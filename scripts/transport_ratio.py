"""Bytes of models on their way to a device, beside `zstd -19` and `xz -9e`: the tables of docs/firmware.md.

    cargo build --release
    python scripts/transport_ratio.py [--write docs/firmware.md]

Models are those of the repository, converted with weights of 8 and of 4 bits and without names (`--strip`). The change is one of
the digits model to itself calibrated on half of the samples, which moves scales, biases and multipliers, and to its 4-bit form of
the same kind. SHIFTFORMER names another command.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = os.environ.get("SHIFTFORMER", str(ROOT / "target/release/shiftformer"))
MODELS = {
    "digits": ("models/digits/digits-vit.onnx", "--calib", "models/digits/calib.npz", "--mean", "0.3057", "--std", "0.376"),
    "arithmetic": ("models/arithmetic/arithmetic.onnx", "--calib", "models/arithmetic/calib.npz", "--context", "13"),
    "text": ("models/text/text.onnx", "--calib", "models/text/calibration.npz", "--calib-samples", "16", "--context", "128"),
}


def call(*arguments):
    done = subprocess.run([COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def convert(to, model, bits, *more):
    call("convert", *MODELS[model], "-o", to, "--weights", bits, "--strip", "--accept-sqnr", "6", *more)
    return to


def packed(folder, model, *base):
    return json.loads(call("pack", model, "-o", folder / "packed.sft", "--json", *base))["packed_bytes"]


def through(*command):
    return len(subprocess.run(command, capture_output=True, check=True).stdout)


def row(folder, title, model, *base):
    own, size = packed(folder, model, *base), model.stat().st_size
    others = [through("zstd", "-19", "-q", "-c", *zstd_base(base), model), through("xz", "-9e", "-c", model)]
    cells = [title, f"{size:,}"] + [f"{n:,} ({100 * n / size:.1f} %)" for n in (own, *others)]
    print(" | ".join(cells), flush=True)
    return f"| {' | '.join(cells)} |"


def zstd_base(base):
    return ["--patch-from", str(base[1])] if base else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=pathlib.Path, help="the page")
    args = parser.parse_args()
    rows = ["| model | bytes | packed | zstd -19 | xz -9e |", "| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        for name in MODELS:
            for bits in ("8", "4"):
                model = convert(folder / f"{name}{bits}.sfm", name, bits)
                rows.append(row(folder, f"{name}, {bits} bits", model))
        for bits in ("8", "4"):
            old, new = folder / f"digits{bits}.sfm", folder / "new.sfm"
            convert(new, "digits", bits, "--calib-samples", "32")
            rows.append(row(folder, f"digits, {bits} bits, calibrated again", new, "--base", old))
    if args.write:
        text = args.write.read_text()
        begin, end = "<!-- transport: scripts/transport_ratio.py -->\n", "<!-- /transport -->"
        before, after = text.split(begin)[0], text.split(end)[1]
        args.write.write_text(before + begin + "\n".join(rows) + "\n" + end + after)


if __name__ == "__main__":
    main()
