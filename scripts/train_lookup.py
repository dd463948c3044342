"""Trains the digits ViT with look-up layers (MemoryFormer, arXiv 2411.12992) in place of its dense ones, and writes its ONNX
file: data, split, schedule and seeds are those of models/digits/train.py.

The layer is exported as one node, `LookupLinear` of the domain `shiftformer`, with a local function of standard operators of
the same name, so that any runtime computes it:

    x [.., k], tables [k / chunk, 2^chunk, n], bias [n], attributes chunk, temperature, to y [.., n]
    y = bias + sum_k p_k tables[k][code_k],  code_k = sum_i 2^i [x_ki >= 0],  p_k = prod_i sigmoid(2 |x_ki| / temperature)

    pip install torch onnx onnxruntime scikit-learn
    python scripts/train_lookup.py --chunk 4 --out models/lookup       # minutes on one core
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models" / "digits"))
import train as digits  # noqa: E402

DOMAIN = "shiftformer"


class Lookup(torch.autograd.Function):
    """The forward pass as one node of the export."""

    @staticmethod
    def forward(ctx, x, tables, bias, chunk, temperature):
        return compute(x, tables, bias, chunk, temperature)

    @staticmethod
    def symbolic(g, x, tables, bias, chunk, temperature):
        out = g.op(f"{DOMAIN}::LookupLinear", x, tables, bias, chunk_i=chunk, temperature_f=temperature)
        sizes = x.type().sizes()
        out.setType(x.type().with_sizes(sizes[:-1] + [tables.type().sizes()[-1]]))
        return out


def compute(x, tables, bias, chunk, temperature):
    """`[.., k]` to `[.., n]`; the gradient of `x` comes by the weights `p`."""
    z = x.unflatten(-1, (-1, chunk))
    powers = 2 ** torch.arange(chunk)
    code = ((z >= 0) * powers).sum(-1)
    p = torch.sigmoid(2 * z.abs() / temperature).prod(-1)
    index = code + torch.arange(tables.shape[0]) * tables.shape[1]
    return (tables.flatten(0, 1)[index] * p.unsqueeze(-1)).sum(-2) + bias


class LookupLinear(nn.Module):
    """Drop-in for `nn.Linear`."""

    def __init__(self, k: int, n: int, chunk: int, temperature: float = 1.0):
        super().__init__()
        self.chunk, self.temperature = chunk, temperature
        self.tables = nn.Parameter(torch.randn(k // chunk, 2**chunk, n) * (2.0 / (k // chunk)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = Lookup.apply if torch.onnx.is_in_onnx_export() else compute
        return layer(x, self.tables, self.bias, self.chunk, self.temperature)


def function() -> onnx.FunctionProto:
    """The layer in standard operators."""
    text = """<opset_import: ["" : 17], domain: "shiftformer">
        LookupLinear <chunk, temperature> (x, tables, bias) => (y) {
            zero = Constant <value_int = 0> ()
            one = Constant <value_int = 1> ()
            two = Constant <value_int = 2> ()
            zeros = Constant <value_ints = [0]> ()
            ones = Constant <value_ints = [1]> ()
            far = Constant <value_ints = [9223372036854775807]> ()
            last = Constant <value_ints = [-1]> ()
            before_last = Constant <value_ints = [-2]> ()
            nothing = Constant <value_float = 0.0> ()
            half = Constant <value_float = 0.5> ()
            length = Constant <value_int: int = @chunk> ()
            t = Constant <value_float: float = @temperature> ()
            shape = Shape (x)
            leading = Slice (shape, zeros, last)
            lengths = Unsqueeze (length, zeros)
            cut = Concat <axis = 0> (leading, last, lengths)
            z = Reshape (x, cut)
            positive = GreaterOrEqual (z, nothing)
            bits = Cast <to = 7> (positive)
            places = Range (zero, length, one)
            powers = Pow (two, places)
            parts = Mul (bits, powers)
            code = ReduceSum <keepdims = 0> (parts, last)
            table_shape = Shape (tables)
            chunks_1 = Slice (table_shape, zeros, ones)
            chunks = Squeeze (chunks_1, zeros)
            numbers = Range (zero, chunks, one)
            codes = Pow (two, length)
            starts = Mul (numbers, codes)
            index = Add (code, starts)
            width_from = Slice (table_shape, last, far)
            flat_shape = Concat <axis = 0> (last, width_from)
            flat = Reshape (tables, flat_shape)
            rows = Gather <axis = 0> (flat, index)
            size = Abs (z)
            half_t = Mul (t, half)
            steps = Div (size, half_t)
            factors = Sigmoid (steps)
            p = ReduceProd <axes = [-1], keepdims = 0> (factors)
            weight = Unsqueeze (p, last)
            weighted = Mul (rows, weight)
            sum = ReduceSum <keepdims = 0> (weighted, before_last)
            y = Add (sum, bias)
        }"""
    return onnx.parser.parse_function(text)


def export(model: nn.Module, path: Path) -> None:
    """Writes `model` with the function of its layers, batch fixed to 1."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, digits.IMAGE, digits.IMAGE),),
        buffer,
        dynamo=False,
        opset_version=17,
        custom_opsets={DOMAIN: 1},
        input_names=["image"],
        output_names=["logits"],
    )
    graph = onnx.load_from_string(buffer.getvalue())
    graph.functions.append(function())
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def replace(model: nn.Module, names: list[str], chunk: int, temperature: float) -> None:
    """Look-up layers in place of the dense ones with these last names."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if name in names and isinstance(layer, nn.Linear):
                setattr(module, name, LookupLinear(layer.in_features, layer.out_features, chunk, temperature))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="digits-lookup")
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--layers", default="fc1,fc2,qkv,proj")
    parser.add_argument("--d-model", type=int, default=32)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--d-ff", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    class Model(digits.DigitsVit):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            replace(self, args.layers.split(","), args.chunk, args.temperature)

    digits.DigitsVit = Model
    x_train, y_train, x_test, y_test = digits.load_split()
    unit = x_train.astype(np.float64) / 255
    mean, std = round(float(unit.mean()), 4), round(float(unit.std()), 4)
    images = torch.from_numpy(unit.astype(np.float32))
    model = digits.train(args, images, torch.from_numpy(y_train), mean, std)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}.onnx"
    export(model, path)
    logits = digits.onnx_logits(path, x_test, mean, std)
    # As models/digits/train.py writes it, for `shiftformer eval`.
    np.savez_compressed(
        args.out / f"{args.name}.npz", in_image=x_test[:, None], label=y_test, out_logits=logits[:, None]
    )
    correct = int((logits.argmax(1) == y_test).sum())
    print(f"{path.name} {path.stat().st_size} bytes, test {correct}/{len(y_test)} = {100 * correct / len(y_test):.2f} %")


if __name__ == "__main__":
    main()
