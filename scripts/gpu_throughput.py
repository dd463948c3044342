"""Throughput of the integer GPU path beside PyTorch on the same card, in one run: DeiT-Tiny at 224 x 224.

    cargo build --release
    python -m venv venv && venv/bin/pip install torch timm
    venv/bin/python scripts/gpu_throughput.py deit-tiny.sfm [--shiftformer target/release/shiftformer] [--adapter NAME]

`deit-tiny.sfm` is any DeiT-Tiny made by `shiftformer convert`. For each batch size the script runs
`shiftformer bench --backend gpu` and the same network in PyTorch (float32 with and without TF32, float16), alternating,
and prints samples per second, the ratio to float32, and the integer operations per second. Both sides hold the weights
on the device; both include copying the inputs to it and the results back.
"""

import argparse
import json
import statistics
import subprocess
import time

import timm
import torch

RUNS = 30


def integer(args, batch):
    backend = f"gpu:{args.adapter}" if args.adapter else "gpu"
    command = [args.shiftformer, "bench", "--backend", backend, "--batch", str(batch), "--json", args.model]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def floating(batch, dtype, tf32):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval().to("cuda", dtype)
    images = torch.rand(batch, 3, 224, 224, dtype=dtype).pin_memory()
    times = []
    with torch.inference_mode():
        for _ in range(RUNS + 5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            model(images.to("cuda", non_blocking=True)).cpu()
            times.append(time.perf_counter() - start)
    return batch / statistics.median(times[5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shiftformer", default="target/release/shiftformer")
    parser.add_argument("--adapter", help="index or part of the name, as `shiftformer adapters` lists them")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 256])
    args = parser.parse_args()
    print(f"card {torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'batch':>6} {'path':<22} {'samples/s':>10} {'x f32':>7} {'TOPS':>7}")
    for batch in args.batches:
        ours = integer(args, batch)
        f32 = floating(batch, torch.float32, False)
        rows = [
            ("PyTorch float32", f32, None),
            ("PyTorch float32, TF32", floating(batch, torch.float32, True), None),
            ("PyTorch float16", floating(batch, torch.float16, True), None),
            (f"integer, {ours['adapter']}", ours["samples_per_s"], ours["integer_tops"]),
        ]
        for name, rate, tops in rows:
            print(f"{batch:>6} {name:<22} {rate:>10.1f} {rate / f32:>7.2f} {'' if tops is None else f'{tops:>7.2f}'}")


if __name__ == "__main__":
    main()
