"""Trains the bundled digits ViT and writes its ONNX file, evaluation set and calibration set.

Data: scikit-learn's 1,797 handwritten digits (8 x 8, 16 grey levels), split once, stratified by class:
1,437 training and 360 test images. Nothing is selected on the test images: the schedule is fixed, and the
weights that are exported are the moving average at its end.

Run from anywhere:  python models/digits/train.py
"""

import argparse
import io
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

N_TRAIN, N_TEST, N_CALIB = 1437, 360, 128
SPLIT_SEED = 20260
N_CLASSES = 10
IMAGE = 8
PATCH = 2


class Attention(nn.Module):
    """Multi-head self-attention over `[batch, seq_len, d_model]`, one matrix for q, k and v."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.head_dim = d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, seq_len, d_model = x.shape
        qkv = self.qkv(x).reshape(batch, seq_len, 3, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q @ k.transpose(-2, -1)) * self.head_dim**-0.5
        mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, seq_len, d_model))


class Block(nn.Module):
    """Pre-norm encoder block: attention and a GELU MLP, each with a residual branch."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.norm2 = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, d_ff)
        self.fc2 = nn.Linear(d_ff, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class DigitsVit(nn.Module):
    """ViT over `[batch, 1, 8, 8]` normalised images: patch convolution, learned positions, mean pooling."""

    def __init__(self, d_model: int, depth: int, n_heads: int, d_ff: int):
        super().__init__()
        self.embed = nn.Conv2d(1, d_model, PATCH, stride=PATCH)
        self.pos = nn.Parameter(0.02 * torch.randn(1, (IMAGE // PATCH) ** 2, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff) for _ in range(depth))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, N_CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns train images `[1437, 1, 8, 8]` u8, train labels i64, test images `[360, 1, 8, 8]`, test labels."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, train_size=N_TRAIN, test_size=N_TEST, random_state=SPLIT_SEED, stratify=labels
    )
    return x_train, y_train, x_test, y_test


def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turns, scales, shears and moves each `[1, 8, 8]` image in `[0, 1]` a little; bilinear, zeros outside."""
    n = batch.shape[0]

    def uniform(width: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * width

    angle, shear = uniform(math.radians(12)), uniform(0.15)
    sx, sy = 1 + uniform(0.12), 1 + uniform(0.12)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = sx * angle.cos(), shear - angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), sy * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(0.2), uniform(0.2)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, align_corners=False)
    contrast = 1 + 0.15 * (torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1)
    return (moved * contrast).clamp(0, 1)


def train(args, images: torch.Tensor, labels: torch.Tensor, mean: float, std: float) -> DigitsVit:
    """Trains on `images` `[n, 1, 8, 8]` in `[0, 1]` and returns the moving average of the weights."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = DigitsVit(args.d_model, args.depth, args.heads, args.d_ff)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema)
    )
    steps = args.epochs * math.ceil(len(images) / args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.1)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for pick in torch.randperm(len(images), generator=generator).split(args.batch):
            x = (augment(images[pick], generator) - mean) / std
            loss = F.cross_entropy(model(x), labels[pick], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item() * len(pick)
        if (epoch + 1) % 25 == 0:
            print(f"epoch {epoch + 1:4d}  loss {total / len(images):.4f}", flush=True)
    return average.module.eval()


def export(model: DigitsVit, path: Path) -> None:
    """Writes `model` as one ONNX file (opset 17: LayerNormalization stays a single node), batch fixed to 1."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, IMAGE, IMAGE),),
        buffer,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
    )
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString())


def onnx_logits(path: Path, images: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Runs raw `u8` images `[n, 1, 8, 8]` through the ONNX file one at a time; returns f32 `[n, 10]`."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return np.concatenate([session.run(["logits"], {"image": x[i : i + 1]})[0] for i in range(len(x))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
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

    # One thread: the order of float sums, and with it the trained weights, does not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    x_train, y_train, x_test, y_test = load_split()
    unit = x_train.astype(np.float64) / 255
    mean, std = round(float(unit.mean()), 4), round(float(unit.std()), 4)
    model = train(args, torch.from_numpy(unit.astype(np.float32)), torch.from_numpy(y_train), mean, std)

    path = args.out / "digits-vit.onnx"
    export(model, path)
    logits = onnx_logits(path, x_test, mean, std)
    # One sample has the shape of the model's input and output, batch axis included: [samples, 1, ...].
    np.savez_compressed(args.out / "eval.npz", in_image=x_test[:, None], label=y_test, out_logits=logits[:, None])
    calib = np.random.default_rng(args.seed).choice(N_TRAIN, N_CALIB, replace=False)
    np.savez_compressed(args.out / "calib.npz", in_image=x_train[calib][:, None], label=y_train[calib])

    correct = int((logits.argmax(1) == y_test).sum())
    train_correct = int((onnx_logits(path, x_train, mean, std).argmax(1) == y_train).sum())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"--mean {mean} --std {std}")
    print(f"parameters {parameters}, {path.name} {path.stat().st_size} bytes")
    print(f"train {train_correct}/{N_TRAIN} = {100 * train_correct / N_TRAIN:.2f} %")
    print(f"test  {correct}/{N_TEST} = {100 * correct / N_TEST:.2f} %")


if __name__ == "__main__":
    main()
