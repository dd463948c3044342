"""Trains a character model that adds two three-digit numbers, after arXiv 2307.03381, and exports it as plain ONNX.

    python scripts/train_arithmetic.py train --format reversed --examples 50000 --out models/arithmetic/arithmetic.onnx
    python scripts/train_arithmetic.py table > table.txt

A line is `$128+367=5940$`: 14 characters, numbers of fixed width, the sum of four digits with the last digit first
(`reversed`) or the first digit first (`plain`). Characters are numbered by their place in VOCABULARY. The model is a
decoder with learned positions, LayerNorm before each part, ReLU, and the embedding as output layer.

`train` learns from `--examples` of the million sums (drawn once, without repetition) and counts the exact answers over
all of the million, greedily: an answer is exact if its four digits and the closing `$` are the most likely ones.
The same seed gives the same examples, so every row of `table` can be repeated.

Needs jax, numpy and onnx; one thread.
"""
import argparse
import json
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = "0123456789+=$"
LENGTH = 14
ANSWER = 9  # place of the first digit of the sum
CONTEXT = LENGTH - 1  # positions the model sees


def lines(sums, form):
    """Token ids `[n, 14]` of the sums with numbers `a * 1000 + b`."""
    a, b = sums // 1000, sums % 1000
    total = a + b
    digit = lambda x, place: (x // 10**place) % 10
    answer = [digit(total, p) for p in range(4)]
    if form == "plain":
        answer.reverse()
    const = lambda c: np.full_like(a, VOCABULARY.index(c))
    columns = [const("$"), digit(a, 2), digit(a, 1), digit(a, 0), const("+"), digit(b, 2), digit(b, 1), digit(b, 0)]
    return np.stack(columns + [const("=")] + answer + [const("$")], axis=1).astype(np.int32)


def initial(key, layers, dim, heads, hidden):
    keys = iter(jax.random.split(key, 4 + 8 * layers))
    normal = lambda shape, std: jax.random.normal(next(keys), shape) * std
    params = {
        "wte": normal((len(VOCABULARY), dim), dim**-0.5),
        "wpe": normal((CONTEXT, dim), 0.02),
        "norm": (jnp.ones(dim), jnp.zeros(dim)),
        "layers": [],
    }
    for _ in range(layers):
        params["layers"].append({
            "norm1": (jnp.ones(dim), jnp.zeros(dim)),
            "qkv": normal((dim, 3 * dim), dim**-0.5),
            "out": normal((dim, dim), (dim * 2 * layers) ** -0.5),
            "norm2": (jnp.ones(dim), jnp.zeros(dim)),
            "up": normal((dim, hidden), (2 / dim) ** 0.5),
            "up_bias": jnp.zeros(hidden),
            "down": normal((hidden, dim), (hidden * 2 * layers) ** -0.5),
        })
    return params


def layer_norm(x, gain_bias):
    gain, bias = gain_bias
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def forward(params, ids, heads):
    """Logits `[batch, length, 13]` of ids `[batch, length]`."""
    batch, length = ids.shape
    x = params["wte"][ids] + params["wpe"][:length]
    dim = x.shape[-1]
    mask = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e9)
    for layer in params["layers"]:
        h = layer_norm(x, layer["norm1"]) @ layer["qkv"]
        q, k, v = jnp.moveaxis(h.reshape(batch, length, 3, heads, dim // heads), 2, 0).swapaxes(2, 3)
        scores = q @ k.swapaxes(2, 3) * (dim // heads) ** -0.5 + mask
        h = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(batch, length, dim)
        x = x + h @ layer["out"]
        h = layer_norm(x, layer["norm2"]) @ layer["up"] + layer["up_bias"]
        x = x + jax.nn.relu(h) @ layer["down"]
    return layer_norm(x, params["norm"]) @ params["wte"].T


def answer_loss(params, batch, heads):
    logits = forward(params, batch[:, :-1], heads)[:, ANSWER - 1 :]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch[:, ANSWER:, None], -1)
    return -chosen.mean()


def train(args):
    sums = np.random.default_rng(args.seed).permutation(1_000_000)[: args.examples]
    data = lines(sums, args.format)
    params = initial(jax.random.PRNGKey(args.seed), args.layers, args.dim, args.heads, args.hidden)

    @jax.jit
    def update(params, first, second, batch, step):
        loss, grads = jax.value_and_grad(answer_loss)(params, batch, args.heads)
        norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), grads)
        done = step / args.steps
        rate = args.rate * jnp.minimum((step + 1) / 100, 1.0) * (0.02 + 0.98 * 0.5 * (1 + jnp.cos(jnp.pi * done)))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g * g, second, grads)
        c1, c2 = 1 - 0.9 ** (step + 1), 1 - 0.98 ** (step + 1)
        def moved(p, m, v):
            decay = args.decay if p.ndim == 2 else 0.0
            return p - rate * (m / c1 / (jnp.sqrt(v / c2) + 1e-8) + decay * p)
        return jax.tree.map(moved, params, first, second), first, second, loss

    zeros = jax.tree.map(jnp.zeros_like, params)
    first, second = zeros, zeros
    random = np.random.default_rng(args.seed + 1)
    start = time.time()
    for step in range(args.steps):
        batch = data[random.integers(0, len(data), args.batch)]
        params, first, second, loss = update(params, first, second, batch, jnp.float32(step))
        if args.verbose and (step % 500 == 499 or step == 99):
            sample = lines(random.integers(0, 1_000_000, 4096), args.format)
            print(f"step {step + 1} loss {loss:.5f} exact {exact(params, sample, args.heads) / 4096:.4f} "
                  f"{time.time() - start:.0f} s", flush=True)
            if args.checkpoint:
                export(params, args, args.checkpoint)
    return params


_exact = jax.jit(lambda params, ids, heads: (
    forward(params, ids[:, :-1], heads)[:, ANSWER - 1 :].argmax(-1) == ids[:, ANSWER:]).all(-1).sum(), static_argnums=2)


def exact(params, ids, heads):
    """How many answers are exact. Every digit is asked for with the right ones before it: an answer is exact so or not at all."""
    return sum(int(_exact(params, ids[i : i + 4096], heads)) for i in range(0, len(ids), 4096))


def export(params, args, path):
    """Plain causal ONNX: `input_ids [1, 13]` (int64) to `logits [1, 13, 13]`."""
    nodes, weights = [], []

    def weight(name, array):
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    dim, heads = args.dim, args.heads
    real = lambda name, array: weight(name, np.asarray(array, np.float32))
    ints = lambda name, values: weight(name, np.asarray(values, np.int64))
    x = node("Gather", [real("wte", params["wte"]), "input_ids"], "embedded")
    x = node("Add", [x, real("wpe", params["wpe"])], "x0")
    causal = real("causal", np.where(np.tril(np.ones((CONTEXT, CONTEXT), bool)), 0.0, -1e9))
    split = ints("heads_shape", [0, 0, heads, dim // heads])
    join = ints("joined_shape", [0, 0, dim])
    scale = real("scale", (dim // heads) ** -0.5)
    for i, layer in enumerate(params["layers"]):
        n = f"layers.{i}."
        norm = lambda which, x: node(
            "LayerNormalization", [x, real(n + which + ".gain", layer[which][0]), real(n + which + ".bias", layer[which][1])],
            n + which, axis=-1, epsilon=1e-5)
        h = norm("norm1", x)
        parts = []
        for j, part in enumerate("qkv"):
            y = node("MatMul", [h, real(n + part + ".weight", layer["qkv"][:, j * dim : (j + 1) * dim])], n + part)
            y = node("Reshape", [y, split], n + part + ".split")
            parts.append(node("Transpose", [y], n + part + ".heads", perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
        scores = node("Mul", [node("MatMul", parts[:2], n + "products"), scale], n + "scores")
        shares = node("Softmax", [node("Add", [scores, causal], n + "masked")], n + "shares", axis=-1)
        y = node("Transpose", [node("MatMul", [shares, parts[2]], n + "mixed")], n + "mixed.rows", perm=[0, 2, 1, 3])
        y = node("MatMul", [node("Reshape", [y, join], n + "joined"), real(n + "out.weight", layer["out"])], n + "out")
        x = node("Add", [x, y], n + "x1")
        h = node("MatMul", [norm("norm2", x), real(n + "up.weight", layer["up"])], n + "up.product")
        h = node("Relu", [node("Add", [h, real(n + "up.bias", layer["up_bias"])], n + "up")], n + "relu")
        x = node("Add", [x, node("MatMul", [h, real(n + "down.weight", layer["down"])], n + "down")], n + "x2")
    x = node("LayerNormalization", [x, real("norm.gain", params["norm"][0]), real("norm.bias", params["norm"][1])],
             "norm", axis=-1, epsilon=1e-5)
    node("MatMul", [x, node("Transpose", ["wte"], "wte.columns", perm=[1, 0])], "logits")
    graph = helper.make_graph(
        nodes, "arithmetic",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, CONTEXT])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CONTEXT, len(VOCABULARY)])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="train_arithmetic.py")
    onnx.checker.check_model(model)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    onnx.save(model, path)


def count_all(params, args):
    asked = np.random.default_rng(0).permutation(1_000_000)[: args.asked]
    return exact(params, lines(asked, args.format), args.heads)


def command_train(args):
    params = train(args)
    n = count_all(params, args)
    n_params = sum(p.size for p in jax.tree.leaves(params))
    print(json.dumps({"format": args.format, "examples": args.examples, "seed": args.seed, "parameters": n_params,
                      "exact": n, "of": args.asked}), flush=True)
    if args.out:
        export(params, args, args.out)


def command_table(args):
    for examples in args.sizes:
        for form in ("reversed", "plain"):
            args.format, args.examples = form, examples
            args.out = os.path.join(args.folder, f"{form}-{examples}.onnx") if args.folder else None
            command_train(args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("train", command_train), ("table", command_table)):
        p = commands.add_parser(name)
        p.set_defaults(run=run)
        p.add_argument("--layers", type=int, default=2)
        p.add_argument("--dim", type=int, default=64)
        p.add_argument("--heads", type=int, default=4)
        p.add_argument("--hidden", type=int, default=192)
        p.add_argument("--steps", type=int, default=1000)
        p.add_argument("--batch", type=int, default=256)
        p.add_argument("--rate", type=float, default=2e-3)
        p.add_argument("--decay", type=float, default=0.05)
        p.add_argument("--seed", type=int, default=17)
        p.add_argument("--asked", type=int, default=1_000_000, help="count over so many sums, drawn at random")
        p.add_argument("--verbose", action="store_true")
        p.add_argument("--checkpoint", help="ONNX file written while training")
    train_parser, table_parser = commands.choices["train"], commands.choices["table"]
    train_parser.add_argument("--format", choices=("reversed", "plain"), default="reversed")
    train_parser.add_argument("--examples", type=int, default=50_000)
    train_parser.add_argument("--out")
    table_parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2500, 5000, 10000])
    table_parser.add_argument("--folder", help="write every model there")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
