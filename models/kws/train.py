"""Trains the keyword spotter on words that espeak-ng speaks, and writes its ONNX file and calibration set.

    python models/kws/train.py --cache /tmp/words.npz

The words are spoken once and kept in the cache; utterances are made of them (sounds.py) and taken several times each, with
other frames hidden. Nothing is selected on the evaluation's utterances: the number of steps is fixed, and the exported weights
are the moving average at the end.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

import features
import sounds

FRAMES, WIDTH = 98, features.COEFFICIENTS
# Frames of a patch, and from one to the next: (98 - 6) / 4 + 1 = 24 tokens.
PATCH, STRIDE = 6, 4
TOKENS = (FRAMES - PATCH) // STRIDE + 1
CALIBRATION = 96


class Attention(nn.Module):
    """Multi-head self-attention over `[batch, seq_len, d_model]`, one matrix for q, k and v."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        batch, seq_len, d_model = x.shape
        q, k, v = self.qkv(x).reshape(batch, seq_len, 3, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5).softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, seq_len, d_model))


class Block(nn.Module):
    """Pre-norm encoder block."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.fc1, self.fc2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Spotter(nn.Module):
    """A transformer over `[batch, 1, 98, 40]` MFCC: patches of six frames, learned positions, mean pooling."""

    def __init__(self, d_model, depth, n_heads, d_ff, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.embed = nn.Conv2d(1, d_model, (PATCH, WIDTH), stride=(STRIDE, WIDTH))
        self.pos = nn.Parameter(0.02 * torch.randn(1, TOKENS, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff) for _ in range(depth))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, len(sounds.LABELS))

    def forward(self, mfcc):
        # Folded into the convolution before the export.
        x = self.embed((mfcc - self.mean) / self.std).flatten(2).transpose(1, 2) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))

    @torch.no_grad()
    def fold(self):
        """Moves mean and deviation of the coefficients into the convolution."""
        weight = self.embed.weight / self.std
        self.embed.bias -= (weight * self.mean).sum(dim=(1, 2, 3))
        self.embed.weight.copy_(weight)
        self.mean.zero_()
        self.std.fill_(1)


class Utterances:
    """Utterances of the training's words."""

    def __init__(self, words, seed):
        self.random = np.random.default_rng(seed)
        self.by_label = [[s for label, s in words if label == own] for own in range(sounds.SILENCE)]
        self.bank = [sounds.noise(self.random, 3 * sounds.SECOND).astype(np.float32) for _ in range(400)]

    def noise(self, random, count):
        """A piece of the bank; some are other words, spoken at once."""
        if random.random() < 0.1:
            mixed = np.zeros(count, np.float32)
            for _ in range(3):
                of = self.by_label[sounds.UNKNOWN]
                word = of[random.integers(len(of))][:count]
                at = random.integers(0, count - len(word) + 1)
                mixed[at : at + len(word)] += word
            return mixed / (np.sqrt(np.mean(mixed**2)) + 1e-9)
        sound = self.bank[random.integers(len(self.bank))]
        at = random.integers(0, len(sound) - count + 1)
        return sound[at : at + count] * random.choice([-1.0, 1.0])

    def one(self):
        random = self.random
        # As often as five keywords: what is none has to be known well.
        label = random.choice(len(sounds.LABELS), p=[0.06] * len(sounds.KEYWORDS) + [0.28, 0.12])
        if label == sounds.SILENCE:
            return sounds.utterance(random, None, make=self.noise), label
        whole = True
        if label == sounds.UNKNOWN and random.random() < 0.3:
            of, whole = self.by_label[random.integers(len(sounds.KEYWORDS))], False
        else:
            of = self.by_label[label]
        word = of[random.integers(len(of))]
        faster = sounds.resampled(word, random.uniform(0.85, 1.2))
        if len(faster) <= sounds.SECOND:
            word = faster
        return sounds.utterance(random, word, whole, make=self.noise), label

    def batch(self, count, dtype=torch.float32):
        """Features `[count, FRAMES, WIDTH]` and labels."""
        made = [self.one() for _ in range(count)]
        mfcc = features.mfcc(torch.from_numpy(np.stack([pcm for pcm, _ in made])), dtype)
        return mfcc, torch.tensor([label for _, label in made])


def hidden(mfcc, generator):
    """Of four in ten samples a stretch of 2 to 12 frames becomes the sample's mean."""
    count = len(mfcc)
    first = torch.randint(0, FRAMES - 12, (count, 1), generator=generator)
    frames = torch.randint(2, 13, (count, 1), generator=generator) * (torch.rand(count, 1, generator=generator) < 0.4)
    place = torch.arange(FRAMES)[None]
    inside = (place >= first) & (place < first + frames)
    return torch.where(inside[..., None], mfcc.mean(dim=1, keepdim=True), mfcc)


def train(args, utterances):
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    start = time.time()
    made = [utterances.batch(args.batch) for _ in range(args.utterances // args.batch)]
    seen, labels = torch.cat([mfcc for mfcc, _ in made]), torch.cat([label for _, label in made])
    print(f"{len(seen)} utterances in {time.time() - start:.0f} s", flush=True)
    model = Spotter(args.d_model, args.depth, args.heads, args.d_ff, seen.mean(dim=(0, 1)), seen.std(dim=(0, 1)))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    order, total, right = torch.empty(0, dtype=torch.long), 0.0, 0
    for step in range(1, args.steps + 1):
        if len(order) < args.batch:
            order = torch.cat([order, torch.randperm(len(seen), generator=generator)])
        pick, order = order[: args.batch], order[args.batch :]
        logits = model(hidden(seen[pick], generator)[:, None])
        loss = F.cross_entropy(logits, labels[pick], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        total += loss.item()
        right += (logits.argmax(1) == labels[pick]).sum().item()
        if step % 100 == 0:
            shown = 100 * right / (100 * args.batch)
            print(f"step {step:5d}  loss {total / 100:.4f}  right {shown:.2f} %  {time.time() - start:.0f} s", flush=True)
            total, right = 0.0, 0
    return average.module.eval()


def export(model, path):
    """Writes `model` as one ONNX file (opset 17: LayerNormalization stays a single node), batch fixed to 1."""
    buffer = io.BytesIO()
    names = {"input_names": ["mfcc"], "output_names": ["logits"]}
    torch.onnx.export(model, (torch.zeros(1, 1, FRAMES, WIDTH),), buffer, dynamo=False, opset_version=17, **names)
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="file that keeps the spoken words")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--d-model", type=int, default=48)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--d-ff", type=int, default=144)
    parser.add_argument("--utterances", type=int, default=24_576)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    # One thread: the order of float sums, and with it the trained weights, does not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    words = sounds.training_words(args.cache)
    print(f"{len(words)} words", flush=True)
    utterances = Utterances(words, args.seed)
    model = train(args, utterances)
    model.fold()
    export(model, args.out / "kws.onnx")
    # Half floats: calibration chooses ranges.
    mfcc, labels = utterances.batch(CALIBRATION, torch.float64)
    np.savez_compressed(args.out / "calib.npz", in_mfcc=mfcc.numpy().astype(np.float16)[:, None, None], label=labels.numpy())
    (args.out / "labels.txt").write_text("\n".join(sounds.LABELS) + "\n")
    parameters = sum(p.numel() for p in model.parameters())
    print(f"parameters {parameters}, kws.onnx {(args.out / 'kws.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    main()
