"""Throughput of the integer GPU path beside PyTorch on the same card, in one run of under four minutes: DeiT-Tiny at
224 x 224, and any other model.

    cargo build --release
    python -m venv venv && venv/bin/pip install torch timm
    venv/bin/python scripts/gpu_throughput.py deit-tiny.sfm [--shiftformer target/release/shiftformer] [--adapter NAME]
        [--also kwt1.sfm:256 deit-tiny-ivit.sfm:48]

`deit-tiny.sfm` is any DeiT-Tiny made by `shiftformer convert`. For each batch size the script runs
`shiftformer bench --backend gpu` and the same network in PyTorch: float32 with and without TF32 and float16, eager, and
compiled with CUDA graphs at the smallest batch of several samples and at the largest, where also packed products run
alone. `--also` adds models with the batch to run them in. Both sides hold the weights on the device.
Two rates are printed: with the inputs copied to the device and the results back, and with inputs that lie there already.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import timm
import torch

RUNS = 30


def integer(args, model, batch, route):
    backend = f"gpu:{args.adapter}" if args.adapter else "gpu"
    command = [args.shiftformer, "bench", "--backend", backend, "--batch", str(batch), "--json", model]
    environment = {**os.environ, "SHIFTFORMER_GPU_ROUTE": route}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result = json.loads(done.stdout)
    return result["streamed_samples_per_s"], result.get("device_samples_per_s"), result["adapter"]


def floating(batch, dtype, tf32, compiled):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    # A compiled model of another type or batch is no reason to give up compiling.
    torch._dynamo.reset()
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval().to("cuda", dtype)
    if compiled:
        model = torch.compile(model, mode="reduce-overhead")
    images = torch.rand(batch, 3, 224, 224, dtype=dtype).pin_memory()
    on_device = images.to("cuda")

    def rate(run):
        times = []
        for _ in range(RUNS + 5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return batch / statistics.median(times[5:])

    with torch.inference_mode():
        return rate(lambda: model(images.to("cuda", non_blocking=True)).cpu()), rate(lambda: model(on_device))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--shiftformer", default="target/release/shiftformer")
    parser.add_argument("--adapter", help="index or part of the name, as `shiftformer adapters` lists them")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--also", nargs="*", default=[], metavar="MODEL:BATCH")
    parser.add_argument("--eager", action="store_true", help="leave the compiled models out: they take a minute")
    args = parser.parse_args()
    print(f"card {torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'batch':>6} {'path':<34} {'with copies':>12} {'on the device':>14}")
    forms = [("float32", torch.float32, False), ("float32, TF32", torch.float32, True), ("float16", torch.float16, True)]
    compiled_at = {min((b for b in args.batches if b > 1), default=1), max(args.batches)}

    def show(batch, name, with_copies, on_device):
        shown = "-" if on_device is None else f"{on_device:.0f}"
        print(f"{batch:>6} {name:<34} {with_copies:>12.0f} {shown:>14}", flush=True)

    def show_integer(model, batch, route):
        streamed, device, adapter = integer(args, model, batch, route)
        show(batch, f"{os.path.basename(model)}, {route}, {adapter}"[:34], streamed, device)

    # Ours first, all of it: what is compiled takes most of the time.
    for batch in args.batches:
        show_integer(args.model, batch, "fastest")
    show_integer(args.model, max(args.batches), "packed")
    for model, batch in (also.rsplit(":", 1) for also in args.also):
        show_integer(model, int(batch), "fastest")
    for compiled in [False] if args.eager else [False, True]:
        how = "compiled" if compiled else "eager"
        for batch in args.batches:
            for name, dtype, tf32 in forms:
                # Compiling takes most of the time: the ends of the range, the widest and the narrowest type.
                if not compiled or (batch in compiled_at and not (tf32 and dtype == torch.float32)):
                    show(batch, f"PyTorch {name}, {how}", *floating(batch, dtype, tf32, compiled))


if __name__ == "__main__":
    main()
