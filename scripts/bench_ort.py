#!/usr/bin/env python3
"""Times a model in onnxruntime (f32, and int8 by static QDQ per channel) and in shiftformer, one thread each, in turns.

    bench_ort.py MODEL.onnx DATA.npz MODEL.sfm [--shiftformer PATH] [--rounds N]

DATA.npz holds inputs as `in_<name>`, the first axis being the sample; the first 16 samples calibrate the int8 model.
MODEL.sfm is what `shiftformer convert MODEL.onnx` made. Prints one JSON object with the minimum and the median time of
every engine in ms of processor time, and how many times shiftformer is faster by either. Needs numpy, onnx and
onnxruntime.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_SAMPLES = 16


class Samples(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(model, data):
    """The samples as the model wants them, one at a time."""
    result = []
    for index in range(len(next(iter(data.values())))):
        feed = {}
        for wanted in model.get_inputs():
            value = data["in_" + wanted.name][index]
            shape = [d if isinstance(d, int) else 1 for d in wanted.shape]
            kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[wanted.type]
            feed[wanted.name] = value.astype(kind).reshape(shape)
        result.append(feed)
    return result


def quantize(source, samples, folder):
    prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantized),
        Samples(samples),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
    )
    return quantized


def time_session(model, feed, seconds=1.0):
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        # The time of this process, which other processes do not stretch; one thread does all the work.
        start = time.process_time()
        model.run(None, feed)
        times.append((time.process_time() - start) * 1e3)
    return times


def time_shiftformer(command, sfm):
    out = subprocess.run([command, "bench", sfm, "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("sfm", type=Path)
    parser.add_argument("--shiftformer", default="shiftformer")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    data = {name: values for name, values in np.load(args.data).items() if name.startswith("in_")}
    with tempfile.TemporaryDirectory() as folder:
        plain = session(args.onnx)
        samples = feeds(plain, data)
        int8 = session(quantize(args.onnx, samples[:CALIBRATION_SAMPLES], Path(folder)))
        times = {"ort_f32": [], "ort_int8_qdq": []}
        ours = {"least_ms": [], "median_ms": []}
        for _ in range(args.rounds):
            times["ort_f32"] += time_session(plain, samples[0])
            times["ort_int8_qdq"] += time_session(int8, samples[0])
            figures = time_shiftformer(args.shiftformer, args.sfm)
            for name, values in ours.items():
                values.append(figures[name])
    least = {name: min(values) for name, values in times.items()}
    median = {name: statistics.median(values) for name, values in times.items()}
    # One measurement of shiftformer is a whole series of runs.
    least["shiftformer"], median["shiftformer"] = min(ours["least_ms"]), statistics.median(ours["median_ms"])
    ratios = {name: [round(of[name] / of["shiftformer"], 2) for of in (least, median)] for name in times}
    print(
        json.dumps(
            {
                "least_ms": {name: round(value, 3) for name, value in least.items()},
                "median_ms": {name: round(value, 3) for name, value in median.items()},
                "faster_than_by_least_and_median": ratios,
                "threads": 1,
                "onnxruntime": ort.__version__,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
