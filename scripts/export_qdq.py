"""Makes QuantizeLinear/DequantizeLinear (QDQ) versions of a float ONNX model with onnxruntime's static quantizer.

Two variants of each model, weights symmetric `i8` per output channel in both:
  `<name>-qdq.onnx`     activations symmetric `i8` (zero point 0)
  `<name>-qdq-u8.onnx`  activations asymmetric `u8`
Beside each, `<name>-qdq[-u8].npz` in the project's npz form: the evaluation set (`in_<input>`, `label`) with the
outputs of the QDQ model (`out_<output>`), computed by onnxruntime with graph optimisation off, so that every pair is
evaluated as ONNX defines it instead of being replaced by a fused integer kernel.

The committed files come from
  python scripts/export_qdq.py models/digits/digits-vit.onnx --calib models/digits/calib.npz \\
      --eval models/digits/eval.npz --mean 0.3057 --std 0.376 -o models/digits
The requirements are those of models/digits/requirements.txt.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

VARIANTS = {"-qdq": QuantType.QInt8, "-qdq-u8": QuantType.QUInt8}


class Samples(CalibrationDataReader):
    """Feeds normalised samples `[n, ...input shape]` of the model's one input to the calibration, one at a time."""

    def __init__(self, name: str, samples: np.ndarray):
        self.feeds = iter({name: sample} for sample in samples)

    def get_next(self):
        return next(self.feeds, None)


def session_of(path: Path, optimise: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path: Path, name: str, samples: np.ndarray, optimise: bool) -> np.ndarray:
    """Runs every sample of `[n, ...input shape]`; returns the first output, `[n, ...output shape]`."""
    session = session_of(path, optimise)
    return np.stack([session.run(None, {name: sample})[0] for sample in samples])


def quantize(model: Path, name: str, samples: np.ndarray, activation: QuantType, out: Path) -> None:
    """Writes the QDQ version of `model`, calibrated by min-max on `samples`, weights inside the file."""
    with tempfile.TemporaryDirectory() as folder:
        inferred = Path(folder) / "inferred.onnx"
        quant_pre_process(str(model), str(inferred), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(inferred),
            str(out),
            Samples(name, samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": activation == QuantType.QInt8, "WeightSymmetric": True},
        )
    onnx.checker.check_model(onnx.load(str(out)), full_check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--mean", type=float, default=0.0)
    parser.add_argument("--std", type=float, default=1.0)
    parser.add_argument("--calib-samples", type=int, default=128)
    parser.add_argument("--limit", type=int, help="evaluate only the first samples")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    args = parser.parse_args()
    # The quantizer warns of each one-dimensional LayerNorm weight, which has no second axis to quantize along.
    logging.getLogger().setLevel(logging.ERROR)

    def normalised(raw: np.ndarray) -> np.ndarray:
        x = raw.astype(np.float32)
        return (x / 255 - np.float32(args.mean)) / np.float32(args.std) if raw.dtype == np.uint8 else x

    session = session_of(args.model, True)
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    calib = normalised(np.load(args.calib)[f"in_{name}"][: args.calib_samples])
    data = {key: value[: args.limit] for key, value in np.load(args.eval).items()}
    images = normalised(data[f"in_{name}"])
    labels = data["label"]
    reference = outputs(args.model, name, images, True)

    def accuracy(logits: np.ndarray) -> str:
        correct = int((logits.reshape(len(labels), -1).argmax(1) == labels).sum())
        return f"{correct}/{len(labels)} = {100 * correct / len(labels):.2f} %"

    print(f"{args.model.name}: float {accuracy(reference)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for suffix, activation in VARIANTS.items():
        path = args.out / f"{args.model.stem}{suffix}.onnx"
        quantize(args.model, name, calib, activation, path)
        result = outputs(path, name, images, False)
        noise = 10 * np.log10((reference**2).sum() / ((result - reference) ** 2).sum())
        fused = np.abs(outputs(path, name, images, True) - result).max()
        print(f"{path.name}: {path.stat().st_size} bytes, {accuracy(result)}, SQNR {noise:.1f} dB", end=", ")
        print(f"onnxruntime's fused kernels differ by at most {fused:.4f}")
        arrays = {f"in_{name}": data[f"in_{name}"], "label": labels, f"out_{output}": result}
        np.savez_compressed(path.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
