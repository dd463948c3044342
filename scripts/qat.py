"""Quantization after training beside quantization-aware training, on the two small models of this repository: docs/qat.md.

    python scripts/qat.py digits             # the rows of the vision transformer, in minutes on one core
    python scripts/qat.py arithmetic         # those of the character model
    python scripts/qat.py digits --bits 2    # one row

Weights are those of the committed ONNX files. *Rounded to nearest* is a prepared module that is not trained, `convert --weights`
its error-compensated rounding, `-` where it has no such format. Training starts from them: cross entropy and the distance to the float model's
outputs, AdamW, a cosine rate, 8-bit scales trained along. Nothing is selected on the test data. Every figure is counted by the
runtime, from the model that `shiftformer.convert` makes; that its integers are those of the trained module is asserted.

Needs the wheel of this repository, torch, onnx and (digits) scikit-learn.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

import shiftformer
import shiftformer.torch

ROOT = Path(__file__).resolve().parent.parent
MEAN, STD = 0.3057, 0.376
VOCABULARY = "0123456789+=$"
ANSWER = 9  # place of the first digit of the sum
ASKED = 10_000  # sums that are counted, drawn at random
BITS = (8, 4, 3, 2)


# -- the models ----------------------------------------------------------------------------------------------------------------


def trainer(path: Path):
    """The script that trained a model, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digits_model(source) -> nn.Module:
    """The committed vision transformer, from its ONNX file: names of matrices are lost there, those of biases are not."""
    graph = onnx.load(ROOT / "models/digits/digits-vit.onnx").graph
    known = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type == "Add":
            for bias, product in (node.input, reversed(node.input)):
                if bias.endswith(".bias") and products.get(product) in known:
                    known[bias.replace(".bias", ".weight")] = known[products[product]].t().contiguous()
    model = source.DigitsVit(32, 4, 2, 64)
    state = model.state_dict()
    model.load_state_dict({name: known[name].reshape(value.shape) for name, value in state.items()})
    return model.eval()


class Block(nn.Module):
    """A block of the character model: causal attention and a ReLU MLP, each with a residual branch."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        split = lambda y: y.reshape(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(split(self.q(h)), split(self.k(h)), split(self.v(h)), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.norm2(x))))


class Adder(nn.Module):
    """The character model that adds: ids `[batch, 13]` to logits `[batch, 13, 13]`."""

    def __init__(self, dim: int = 64, heads: int = 4, hidden: int = 192, layers: int = 2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(len(VOCABULARY), dim), nn.Parameter(torch.zeros(13, dim))
        self.layers = nn.ModuleList(Block(dim, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(input_ids) + self.wpe
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.wte.weight)


def adder() -> nn.Module:
    """The committed character model."""
    graph = onnx.load(ROOT / "models/arithmetic/arithmetic.onnx").graph
    known = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    model = Adder()
    state = {}
    for name in model.state_dict():
        own = name
        if "norm" in name:
            own = name.replace(".weight", ".gain")
        if name in ("wte.weight",):
            own = "wte"
        value = known[own]
        matrix = value.dim() == 2 and name.startswith("layers.")
        state[name] = value.t().contiguous() if matrix else value
    model.load_state_dict(state)
    return model.eval()


# -- training ------------------------------------------------------------------------------------------------------------------


def train(quantized, teacher, batches, steps: int, rate: float, loss_of) -> None:
    """Trains with AdamW and a cosine rate; `batches` yields `(inputs, labels)`."""
    groups = [
        {"params": list(quantized.weights()), "weight_decay": 0.01},
        {"params": list(quantized.scales()), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _, (inputs, labels) in zip(range(steps), batches):
        with torch.no_grad():
            target = teacher(inputs)
        loss = loss_of(quantized(inputs), labels, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(quantized.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def distance(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the outputs from the float model's."""
    return F.kl_div(logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()


def digits_batches(source, images: torch.Tensor, labels: torch.Tensor, size: int = 64):
    generator = torch.Generator().manual_seed(3)
    while True:
        for pick in torch.randperm(len(images), generator=generator).split(size):
            yield (source.augment(images[pick], generator) - MEAN) / STD, labels[pick]


def sums_batches(source, size: int = 128):
    """Lines from the 50,000 sums that the float model learned from."""
    sums = np.random.default_rng(17).permutation(1_000_000)[:50_000]
    data = torch.from_numpy(source(sums)).long()
    random = np.random.default_rng(5)
    while True:
        batch = data[torch.from_numpy(random.integers(0, len(data), size))]
        yield batch[:, :-1], batch[:, ANSWER:]


def lines(sums: np.ndarray) -> np.ndarray:
    """Token ids `[n, 14]` of the sums of numbers `a * 1000 + b`, the last digit of the sum first."""
    a, b = sums // 1000, sums % 1000
    digit = lambda x, place: (x // 10**place) % 10
    const = lambda c: np.full_like(a, VOCABULARY.index(c))
    columns = [const("$"), *(digit(a, p) for p in (2, 1, 0)), const("+"), *(digit(b, p) for p in (2, 1, 0)), const("=")]
    return np.stack([*columns, *(digit(a + b, p) for p in range(4)), const("$")], axis=1).astype(np.int64)


def exact(logits: np.ndarray, asked: np.ndarray) -> int:
    """Answers that are exact: every digit with the right ones before it."""
    return int((logits[:, ANSWER - 1 :].argmax(-1) == asked[:, ANSWER:]).all(-1).sum())


def integers(quantized, ids: np.ndarray) -> np.ndarray:
    """The integers of the module's output, in parts."""
    parts = [quantized.integers(torch.from_numpy(ids[at : at + 2000]))["output"].numpy() for at in range(0, len(ids), 2000)]
    return np.concatenate(parts)


# -- tables --------------------------------------------------------------------------------------------------------------------


def row(bits: int, rounded: str, after: str, aware: str, seconds: float) -> None:
    print(f"| {bits} | {rounded} | {after} | {aware} | {seconds:.0f} s |", flush=True)


def converted(path_or_module, bits: int, calib, **options):
    """A model by quantization after training; `None` where these bits are not known."""
    try:
        return shiftformer.convert(path_or_module, calib, weights=bits, accept_sqnr=-100, **options)
    except shiftformer.UsageError:
        return None


def digits(args) -> None:
    source = trainer(ROOT / "models/digits/train.py")
    float_model = digits_model(source)
    x_train, y_train, _, _ = source.load_split()
    images, labels = torch.from_numpy(x_train.astype(np.float32) / 255), torch.from_numpy(y_train)
    test = np.load(ROOT / "models/digits/eval.npz")
    calib = {"image": np.load(ROOT / "models/digits/calib.npz")["in_image"]}
    right = lambda logits: int((np.asarray(logits).reshape(len(logits), -1).argmax(1) == test["label"]).sum())
    with torch.no_grad():
        exact_logits = float_model((torch.from_numpy(test["in_image"][:, 0]).float() / 255 - MEAN) / STD)
    print(f"float: {right(exact_logits.numpy())} of 360")
    for bits in args.bits:
        start = time.process_time()
        torch.manual_seed(0)
        after = converted(ROOT / "models/digits/digits-vit.onnx", bits, calib, mean=MEAN, std=STD)
        student = digits_model(source)
        quantized = shiftformer.torch.prepare(student, calib["image"][:, 0], weights=bits, mean=MEAN, std=STD)
        pixels = torch.from_numpy(test["in_image"][:, 0])
        rounded = f"{right(quantized.integers(pixels)['output'].numpy())} of 360"
        shown = "-" if after is None else f"{right(after.run(image=test['in_image'])['logits'])} of 360"
        if args.untrained:
            row(bits, rounded, shown, "", time.process_time() - start)
            continue
        steps = args.steps or {8: 115, 4: 230, 3: 460, 2: 690}[bits]
        loss = lambda y, l, t: F.cross_entropy(y, l, label_smoothing=0.05) + distance(y, t)
        train(quantized, float_model, digits_batches(source, images, labels), steps, args.rate, loss)
        model = quantized.convert(accept_sqnr=-100)
        raw = model.run(image=test["in_image"], raw_outputs=True)["output"]
        own = quantized.integers(pixels)["output"].numpy()
        assert np.array_equal(raw.reshape(own.shape), own), "the runtime has other integers than the module"
        row(bits, rounded, shown, f"{right(raw)} of 360", time.process_time() - start)


def arithmetic(args) -> None:
    float_model = adder()
    asked = lines(np.random.default_rng(1).permutation(1_000_000)[:ASKED])
    calib = lines(np.random.default_rng(2).permutation(1_000_000)[:256])[:, :-1]
    with torch.no_grad():
        print(f"float: {exact(float_model(torch.from_numpy(asked[:, :-1])).numpy(), asked)} of {ASKED:,}")
    for bits in args.bits:
        start = time.process_time()
        torch.manual_seed(0)
        path = ROOT / "models/arithmetic/arithmetic.onnx"
        after = converted(path, bits, {"input_ids": calib[:, None]})
        quantized = shiftformer.torch.prepare(adder(), torch.from_numpy(calib), weights=bits)
        count = lambda logits: f"{exact(np.asarray(logits).reshape(ASKED, 13, 13), asked):,} of {ASKED:,}"
        rounded = count(integers(quantized, asked[:, :-1]))
        shown = "-" if after is None else count(after.run(input_ids=asked[:, None, :-1])["logits"])
        if args.untrained:
            row(bits, rounded, shown, "", time.process_time() - start)
            continue
        steps = args.steps or {8: 50, 4: 150, 3: 250, 2: 500}[bits]

        def loss(y, labels, target):
            y, target = y[:, ANSWER - 1 :], target[:, ANSWER - 1 :]
            return F.cross_entropy(y.flatten(0, 1), labels.flatten()) + distance(y, target)

        train(quantized, float_model, sums_batches(lines), steps, args.rate, loss)
        model = quantized.convert(accept_sqnr=-100)
        raw = model.run(input_ids=asked[:, None, :-1], raw_outputs=True)["output"]
        own = integers(quantized, asked[:, :-1])
        assert np.array_equal(raw.reshape(own.shape), own), "the runtime has other integers than the module"
        row(bits, rounded, shown, count(raw), time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("digits", "arithmetic"))
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    parser.add_argument("--steps", type=int, help="steps of training")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--untrained", action="store_true", help="leave out the training")
    args = parser.parse_args()
    # One thread: the order of float sums, and with it the trained weights, does not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print("| bits | rounded to nearest | `convert --weights` | aware | CPU time |\n|---|---|---|---|---|")
    {"digits": digits, "arithmetic": arithmetic}[args.model](args)


if __name__ == "__main__":
    main()
