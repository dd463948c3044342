#!/usr/bin/env python3
"""Times a model in onnxruntime and OpenVINO, f32 and int8 each, and in shiftformer, one thread each, in turns.

    bench_engines.py MODEL.onnx DATA.npz MODEL.sfm [--shiftformer PATH] [--rounds N]
    cargo build --release -p shiftformer --features std --example levels
    bench_engines.py MODEL.onnx DATA.npz MODEL.sfm --isa avx2 [--levels target/release/examples/levels]

As bench_ort.py, whose int8 of onnxruntime this takes; OpenVINO's int8 is that of NNCF for transformers, calibrated on the
same samples. Prints one JSON object with the processor, the minimum and the median of every engine in ms of processor time,
and how many times shiftformer is faster by either. With --isa OpenVINO and shiftformer are limited to this instruction set,
and onnxruntime, which cannot be, is left out. Needs numpy, onnx, onnxruntime, openvino and nncf.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What OpenVINO's kernels are told, before they are loaded, for each level of shiftformer.
ISAS = {"avx2": "AVX2", "avx-vnni": "AVX2_VNNI"}
if "--isa" in sys.argv[:-1]:
    os.environ["ONEDNN_MAX_CPU_ISA"] = ISAS.get(sys.argv[sys.argv.index("--isa") + 1], "")

import nncf
import numpy as np
import onnxruntime as ort
import openvino as ov
from bench_ort import CALIBRATION_SAMPLES, feeds, quantize, session, time_session, time_shiftformer


def processor():
    """Name of the processor, and what it has for products of bytes."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    of = lambda key: next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
    flags = [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if flag in of("flags").split()]
    return {"name": of("model name") or platform.processor(), "family_model": f"{of('cpu family')}/{of('model')}", "has": flags}


class OpenVino:
    """A compiled model on one thread, with the call of the sessions of onnxruntime."""

    def __init__(self, model):
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if model.inputs[0].element_type == ov.Type.f32:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        self.request = ov.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(self, _, feed):
        return self.request.infer(feed)


def openvino_int8(model, samples):
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
    )


def time_level(args):
    """Times of shiftformer with the kernels of one level."""
    command = [args.levels, args.sfm, args.isa]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("sfm", type=Path)
    parser.add_argument("--shiftformer", default="shiftformer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", choices=ISAS)
    parser.add_argument("--levels", default="target/release/examples/levels")
    args = parser.parse_args()
    data = {name: values for name, values in np.load(args.data).items() if name.startswith("in_")}
    with tempfile.TemporaryDirectory() as folder:
        plain = session(args.onnx)
        samples = feeds(plain, data)
        calibration = samples[:CALIBRATION_SAMPLES]
        model = ov.Core().read_model(args.onnx)
        model.reshape({name: value.shape for name, value in samples[0].items()})
        engines = {"openvino_f32": OpenVino(model), "openvino_int8": OpenVino(openvino_int8(model, calibration))}
        if args.isa is None:
            int8 = session(quantize(args.onnx, calibration, Path(folder)))
            engines = {"onnxruntime_f32": plain, "onnxruntime_int8": int8, **engines}
        times = {name: [] for name in engines}
        ours = {"least_ms": [], "median_ms": []}
        for _ in range(args.rounds):
            for name, engine in engines.items():
                times[name] += time_session(engine, samples[0])
            figures = time_shiftformer(args.shiftformer, args.sfm) if args.isa is None else time_level(args)
            for name, values in ours.items():
                values.append(figures[name])
    least = {name: min(values) for name, values in times.items()}
    median = {name: statistics.median(values) for name, values in times.items()}
    # One measurement of shiftformer is a whole series of runs.
    least["shiftformer"], median["shiftformer"] = min(ours["least_ms"]), statistics.median(ours["median_ms"])
    faster = {name: [round(of[name] / of["shiftformer"], 2) for of in (least, median)] for name in engines}
    rounded = lambda values: {name: round(value, 4) for name, value in values.items()}
    versions = {"onnxruntime": ort.__version__, "openvino": ov.__version__, "nncf": nncf.__version__}
    result = {
        "processor": processor(),
        "day": time.strftime("%Y-%m-%d"),
        "least_ms": rounded(least),
        "median_ms": rounded(median),
        "faster_than_by_least_and_median": faster,
        "threads": 1,
        "limited_to": args.isa,
        "versions": versions,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
