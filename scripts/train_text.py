"""Trains a small Llama on the King James Bible of the Debian package `bible-kjv-text`, and exports it as plain ONNX.

    apt-get download bible-kjv bible-kjv-text; for deb in bible-kjv*.deb; do dpkg -x $deb bible; done
    python scripts/train_text.py --bible bible --out models/text

The text, in the public domain, is one line per verse, an empty line between chapters; every 20th chapter is kept for
evaluation. Tokens are byte pairs: 512 entries, trained with `tokenizers` on the training part.

Dimension 64, 5 layers, 8 heads, 4 key/value heads, hidden layer of 172, RMSNorm, rotary positions (split halves), SwiGLU,
the embedding as output layer: the shape of llama2.c's stories260K.

Writes `text.onnx` (`input_ids [1, 128]` to `logits [1, 128, 512]`), `tokenizer.json`, `heldout.txt`, `heldout.npz` (`ids` of
every fourth block of 128 tokens of it) and `calibration.npz` (`ids` of the training part). Needs jax, numpy, onnx and tokenizers; one thread.
"""
import argparse
import json
import os
import re
import subprocess
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 512
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 64, 5, 8, 4, 172
HEAD_DIM = DIM // HEADS
CONTEXT = 128
EPSILON = 1e-5


def chapters(folder):
    """The chapters in order, verses as lines without their numbers."""
    lib = os.path.join(folder, "usr/lib")
    program = os.path.abspath(os.path.join(folder, "usr/bin/bible"))
    text = subprocess.run([program, "-f", "-l100000", "Gen1:1-Rev22:21"], cwd=lib, stdin=subprocess.DEVNULL,
                          capture_output=True, check=True).stdout.decode("ascii")
    found = {}
    for line in text.splitlines():
        book, verse = re.fullmatch(r"([0-9A-Za-z]+?\d+):\d+ (.*)", line).groups()
        found.setdefault(book, []).append(verse.strip())
    return ["\n".join(verses) + "\n\n" for verses in found.values()]


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def initial(key):
    keys = iter(jax.random.split(key, 1 + 7 * LAYERS))
    normal = lambda rows, cols, std: jax.random.normal(next(keys), (rows, cols)) * std
    kv = KV_HEADS * HEAD_DIM
    small = 0.02 / (2 * LAYERS) ** 0.5
    layers = [{
        "norm1": jnp.ones(DIM), "norm2": jnp.ones(DIM),
        "q": normal(DIM, DIM, DIM**-0.5), "k": normal(DIM, kv, DIM**-0.5), "v": normal(DIM, kv, DIM**-0.5),
        "o": normal(DIM, DIM, 3 * small), "gate": normal(DIM, HIDDEN, DIM**-0.5), "up": normal(DIM, HIDDEN, DIM**-0.5),
        "down": normal(HIDDEN, DIM, 3 * small),
    } for _ in range(LAYERS)]
    return {"embed": normal(VOCABULARY, DIM, 0.05), "norm": jnp.ones(DIM), "layers": layers}


def angles():
    """Cosines and sines `[CONTEXT, HEAD_DIM]` of the rotary positions."""
    frequency = 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    phase = np.arange(CONTEXT)[:, None] * np.concatenate([frequency, frequency])
    return np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)


def rms_norm(x, gain):
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gain


def forward(params, ids):
    batch, length = ids.shape
    cos, sin = (jnp.asarray(t[:length]) for t in angles())
    half = HEAD_DIM // 2
    rotate = lambda x: x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], -1) * sin
    mask = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e9)
    x = params["embed"][ids]
    for layer in params["layers"]:
        h = rms_norm(x, layer["norm1"])
        split = lambda name, heads: (h @ layer[name]).reshape(batch, length, heads, HEAD_DIM).swapaxes(1, 2)
        q, k, v = rotate(split("q", HEADS)), rotate(split("k", KV_HEADS)), split("v", KV_HEADS)
        q = q.reshape(batch, KV_HEADS, HEADS // KV_HEADS, length, HEAD_DIM)
        scores = jnp.einsum("bgrld,bgmd->bgrlm", q, k) * HEAD_DIM**-0.5 + mask
        h = jnp.einsum("bgrlm,bgmd->bgrld", jax.nn.softmax(scores), v)
        x = x + h.reshape(batch, HEADS, length, HEAD_DIM).swapaxes(1, 2).reshape(batch, length, DIM) @ layer["o"]
        h = rms_norm(x, layer["norm2"])
        x = x + (jax.nn.silu(h @ layer["gate"]) * (h @ layer["up"])) @ layer["down"]
    return rms_norm(x, params["norm"]) @ params["embed"].T


def loss_of(params, batch):
    logits = forward(params, batch[:, :-1])
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch[:, 1:, None], -1).mean()


_loss = jax.jit(loss_of)


def bits_per_byte(params, ids, n_bytes):
    """Of the held-out text in blocks of CONTEXT predictions: bits per token times tokens per byte."""
    blocks = (len(ids) - 1) // CONTEXT
    rows = np.stack([ids[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(blocks)])
    groups = np.array_split(rows, max(1, blocks // 32))
    nats = sum(float(_loss(params, group)) * len(group) for group in groups) / blocks
    return nats / np.log(2) * len(ids) / n_bytes


def train(args, data, heldout, heldout_bytes, out):
    params = initial(jax.random.PRNGKey(args.seed))
    first = jax.tree.map(jnp.zeros_like, params)
    second = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def update(params, first, second, batch, step, progress):
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), grads)
        rate = args.rate * jnp.minimum((step + 1) / 100, 1.0) * (0.02 + 0.98 * 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.97 * v + 0.03 * g * g, second, grads)
        c1, c2 = 1 - 0.9 ** (step + 1), 1 - 0.97 ** (step + 1)

        def moved(p, m, v):
            decay = args.decay if p.ndim == 2 else 0.0
            return p - rate * (m / c1 / (jnp.sqrt(v / c2) + 1e-8) + decay * p)

        return jax.tree.map(moved, params, first, second), first, second, loss

    random = np.random.default_rng(args.seed)
    start, step, mean = time.time(), 0, None
    # The rate falls with the steps or with the time, whichever is used up first, so that a busy machine ends in time too.
    while (progress := max(step / args.steps, (time.time() - start) / args.seconds)) < 1:
        at = random.integers(0, len(data) - CONTEXT - 1, args.batch)
        batch = data[at[:, None] + np.arange(CONTEXT + 1)]
        params, first, second, loss = update(params, first, second, batch, jnp.float32(step), jnp.float32(progress))
        step += 1
        mean = float(loss) if mean is None else 0.98 * mean + 0.02 * float(loss)
        if step % 100 == 0:
            print(f"step {step} loss {mean:.4f} {time.time() - start:.0f} s", flush=True)
        if step % 500 == 0:
            export(params, os.path.join(out, "checkpoint.onnx"))
            print(f"step {step} bits per byte {bits_per_byte(params, heldout, heldout_bytes):.4f}", flush=True)
    print(json.dumps({"steps": step, "bits_per_byte": bits_per_byte(params, heldout, heldout_bytes)}), flush=True)
    return params


def export(params, path):
    """Plain causal ONNX: `input_ids [1, 128]` (int64) to `logits [1, 128, 512]`, nodes as PyTorch exports a Llama."""
    nodes, weights = [], []

    def real(name, array):
        weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def ints(name, values):
        weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    cos, sin = (real(name, table[None, None]) for name, table in zip(("cos", "sin"), angles()))
    causal = real("causal", np.where(np.tril(np.ones((CONTEXT, CONTEXT), bool)), 0.0, -1e9)[None, None])
    two, epsilon, last = real("two", 2.0), real("epsilon", EPSILON), ints("last", [-1])
    start, half, end = ints("start", [0]), ints("half", [HEAD_DIM // 2]), ints("end", [HEAD_DIM])
    column, group = ints("column", [3]), ints("group", [2])
    heads_shape = ints("heads_shape", [1, CONTEXT, -1, HEAD_DIM])
    joined_shape = ints("joined_shape", [1, CONTEXT, DIM])
    expanded = ints("expanded", [1, KV_HEADS, HEADS // KV_HEADS, CONTEXT, HEAD_DIM])
    repeated = ints("repeated", [1, HEADS, CONTEXT, HEAD_DIM])
    scale = real("scale", HEAD_DIM**-0.5)

    def norm(x, gain, name):
        mean = node("ReduceMean", [node("Pow", [x, two], name + ".square"), last], name + ".mean", keepdims=1)
        root = node("Sqrt", [node("Add", [mean, epsilon], name + ".variance")], name + ".root")
        y = node("Mul", [x, node("Reciprocal", [root], name + ".rsqrt")], name + ".normalized")
        return node("Mul", [real(name + ".weight", gain), y], name)

    def linear(x, w, name):
        return node("MatMul", [x, real(name + ".weight", w)], name)

    def heads(x, name):
        return node("Transpose", [node("Reshape", [x, heads_shape], name + ".view")], name + ".heads", perm=[0, 2, 1, 3])

    def rotate(x, name):
        low = node("Slice", [x, start, half, column], name + ".low")
        high = node("Slice", [x, half, end, column], name + ".high")
        turned = node("Concat", [node("Neg", [high], name + ".minus"), low], name + ".turned", axis=-1)
        parts = [node("Mul", [x, cos], name + ".cos"), node("Mul", [turned, sin], name + ".sin")]
        return node("Add", parts, name + ".rotated")

    def repeat(x, name):
        x = node("Expand", [node("Unsqueeze", [x, group], name + ".group"), expanded], name + ".expanded")
        return node("Reshape", [x, repeated], name + ".repeated")

    x = node("Gather", [real("embed.weight", params["embed"]), "input_ids"], "embedding", axis=0)
    for i, layer in enumerate(params["layers"]):
        n = f"layers.{i}."
        h = norm(x, layer["norm1"], n + "input_norm")
        q, k, v = (heads(linear(h, layer[p], n + p), n + p) for p in "qkv")
        q, k = rotate(q, n + "q"), repeat(rotate(k, n + "k"), n + "k")
        k = node("Transpose", [k], n + "k.columns", perm=[0, 1, 3, 2])
        scores = node("Mul", [node("MatMul", [q, k], n + "products"), scale], n + "scores")
        shares = node("Softmax", [node("Add", [scores, causal], n + "masked")], n + "shares", axis=-1)
        h = node("MatMul", [shares, repeat(v, n + "v")], n + "mixed")
        h = node("Reshape", [node("Transpose", [h], n + "mixed.rows", perm=[0, 2, 1, 3]), joined_shape], n + "joined")
        x = node("Add", [x, linear(h, layer["o"], n + "o")], n + "x1")
        h = norm(x, layer["norm2"], n + "post_norm")
        gate = linear(h, layer["gate"], n + "gate")
        silu = node("Mul", [gate, node("Sigmoid", [gate], n + "sigmoid")], n + "silu")
        h = node("Mul", [silu, linear(h, layer["up"], n + "up")], n + "gated")
        x = node("Add", [x, linear(h, layer["down"], n + "down")], n + "x2")
    x = norm(x, params["norm"], "norm")
    node("MatMul", [x, node("Transpose", ["embed.weight"], "head.weight", perm=[1, 0])], "logits")
    graph = helper.make_graph(
        nodes, "text",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, CONTEXT])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CONTEXT, VOCABULARY])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="train_text.py")
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bible", required=True, help="folder that the two packages were unpacked to")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=1e9, help="end after this time at the latest")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    every = chapters(args.bible)
    heldout = "".join(every[19::20])
    training = [text for i, text in enumerate(every) if i % 20 != 19]
    tokenizer = train_tokenizer(training)
    tokenizer.save(os.path.join(args.out, "tokenizer.json"))
    with open(os.path.join(args.out, "heldout.txt"), "w") as file:
        file.write(heldout)
    data = np.array(tokenizer.encode("".join(training)).ids, np.int32)
    heldout_ids = np.array(tokenizer.encode(heldout).ids, np.int32)
    print(f"{len(every)} chapters, {len(data)} tokens; held out {len(heldout)} bytes, {len(heldout_ids)} tokens", flush=True)
    at = np.random.default_rng(args.seed).integers(0, len(data) - CONTEXT, 64)
    np.savez_compressed(os.path.join(args.out, "calibration.npz"), ids=data[at[:, None] + np.arange(CONTEXT)].astype(np.int64))
    blocks = heldout_ids[: len(heldout_ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)[::4]
    np.savez_compressed(os.path.join(args.out, "heldout.npz"), ids=blocks.astype(np.int64))
    params = train(args, data, heldout_ids, len(heldout), args.out)
    export(params, os.path.join(args.out, "text.onnx"))


if __name__ == "__main__":
    main()
