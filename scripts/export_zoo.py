"""Exports small transformers with random weights by public tools, to try the converter on what users bring.

Each architecture (timm, Hugging Face, plain PyTorch) is written by both exporters of PyTorch at several opsets, with
fixed and dynamic batch axis, and by onnxruntime's optimizers, which fuse nodes into operators of their own domain:
  `<model>-ts<opset>.onnx`    TorchScript exporter (opset 13: attention written out)
  `<model>-dy<opset>.onnx`    dynamo exporter
  `<model>-ts17-batch.onnx`   TorchScript exporter, dynamic batch axis
  `<model>-ort-*.onnx`        onnxruntime: `basic`, `extended` (session optimizer), `fused` (transformer optimizer)
Beside each architecture `<model>.npz`: 16 samples `in_<input>` and the outputs `out_<output>` of PyTorch.

  python scripts/export_zoo.py -o FOLDER [--only NAME ..]

An export that a tool refuses is reported and left out; the requirements are scripts/requirements-zoo.txt.
"""

import argparse
import contextlib
import io
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

SAMPLES = 16
TORCHSCRIPT_OPSETS = (13, 14, 15, 16, 17, 19, 20)
# From this opset on the TorchScript exporter knows the attention function of PyTorch.
FIRST_FUNCTION_OPSET = 14
DYNAMO_OPSETS = (18, 19, 20, 21, 23)
CLASSES = 10


@dataclass
class Architecture:
    """A model, the shapes of its float inputs or the vocabulary of its ids, and what the fusing optimizer needs."""

    # Takes how attention is computed: "sdpa" by the function of PyTorch, "eager" in separate products.
    build: Callable[[str], nn.Module]
    image: tuple[int, ...] | None = None
    # (tokens, vocabulary) of a text model, which also takes a padding mask.
    text: tuple[int, int] | None = None
    # (type, heads, width) for onnxruntime's transformer optimizer.
    fusion: tuple[str, int, int] | None = None
    outputs: list[str] = field(default_factory=lambda: ["logits"])


class Tuple(nn.Module):
    """Runs a Hugging Face model with its inputs in order and returns plain tensors."""

    def __init__(self, model: nn.Module, names: list[str], outputs: list[str]):
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *inputs):
        result = self.model(**dict(zip(self.names, inputs)))
        return tuple(getattr(result, name) for name in self.outputs)


class SequencePooling(nn.Module):
    """A compact convolutional transformer: convolutional stem, encoder, attention pooling over the sequence."""

    def __init__(self, width: int, depth: int, heads: int, tokens: int, norm_first: bool, act: str):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(width // 2, width, 3, padding=1, groups=2),
            nn.Hardswish(),
            nn.AvgPool2d(2, 2),
        )
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.2)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, act, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, 1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2) + self.positions
        x = self.norm(self.encoder(x))
        weights = self.pool(x).softmax(1)
        return self.head((weights.transpose(1, 2) @ x).squeeze(1))


def vit(**options) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    base = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=CLASSES)
    return VisionTransformer(**(base | options))


def distilled() -> nn.Module:
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=CLASSES)


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=CLASSES
    )


def swin_v2() -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return SwinTransformerV2(
        img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=CLASSES
    )


def tiny_vit() -> nn.Module:
    from timm.models.tiny_vit import TinyVit

    return TinyVit(
        num_classes=CLASSES, embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), window_sizes=(4, 4, 4, 2)
    )


def levit() -> nn.Module:
    from timm.models.levit import Levit

    return Levit(
        img_size=64, embed_dim=(32, 48), key_dim=16, depth=(1, 1), num_heads=(2, 3), down_op="subsample", num_classes=CLASSES
    )


def hf_vision(kind: str, attention: str) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=CLASSES, attn_implementation=attention,
    )
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    return Tuple(model, ["pixel_values"], ["logits"])


def bert(kind: str, attention: str, outputs: list[str], **options) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, attn_implementation=attention, **options,
    )
    suffix = "Model" if outputs[0] == "last_hidden_state" else "ForSequenceClassification"
    return Tuple(getattr(transformers, f"{kind}{suffix}")(config), ["input_ids", "attention_mask"], outputs)


def distilbert(attention: str) -> nn.Module:
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64, num_labels=CLASSES,
        attn_implementation=attention,
    )
    return Tuple(transformers.DistilBertForSequenceClassification(config), ["input_ids", "attention_mask"], ["logits"])


IMAGE, TEXT = (3, 32, 32), (12, 100)
HIDDEN = ["last_hidden_state", "pooler_output"]
ZOO = {
    "timm-vit": Architecture(lambda _: vit(), IMAGE, fusion=("vit", 3, 48)),
    "timm-vit-mean-scale": Architecture(lambda _: vit(class_token=False, global_pool="avg", init_values=0.5), IMAGE),
    "timm-vit-qknorm": Architecture(lambda _: vit(qk_norm=True, act_layer=nn.SiLU), IMAGE),
    "timm-deit-distilled": Architecture(lambda _: distilled(), IMAGE, fusion=("vit", 3, 48)),
    "timm-swin": Architecture(lambda _: swin(), IMAGE, fusion=("swin", 2, 24)),
    "timm-swinv2": Architecture(lambda _: swin_v2(), IMAGE),
    "timm-tinyvit": Architecture(lambda _: tiny_vit(), (3, 64, 64)),
    "timm-levit": Architecture(lambda _: levit(), (3, 64, 64)),
    "torch-cct": Architecture(lambda _: SequencePooling(32, 2, 2, 64, True, "gelu"), IMAGE),
    "torch-cct-post": Architecture(lambda _: SequencePooling(32, 1, 4, 64, False, "relu"), IMAGE),
    "hf-vit": Architecture(lambda attention: hf_vision("ViT", attention), IMAGE, fusion=("vit", 3, 48)),
    "hf-deit": Architecture(lambda attention: hf_vision("DeiT", attention), IMAGE, fusion=("vit", 3, 48)),
    "hf-bert": Architecture(lambda attention: bert("Bert", attention, HIDDEN), text=TEXT, fusion=("bert", 2, 32), outputs=HIDDEN),
    "hf-bert-tanh": Architecture(
        lambda attention: bert("Bert", attention, ["logits"], num_labels=CLASSES, hidden_act="gelu_new"),
        text=TEXT, fusion=("bert", 2, 32),
    ),
    "hf-distilbert": Architecture(distilbert, text=TEXT, fusion=("bert", 2, 32)),
}


def fresh(architecture: Architecture, attention: str) -> nn.Module:
    """The model with random weights; vectors and running statistics moved away from the ones and zeros of a new one."""
    from timm.layers import set_fused_attn

    torch.manual_seed(1)
    set_fused_attn(attention == "sdpa")
    model = architecture.build(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim >= 2 and parameter.shape[0] > 1:
                # Weights that keep the size of what they multiply.
                parameter.copy_(noise / (parameter.numel() / parameter.shape[0]) ** 0.5)
            else:
                parameter.add_(noise * 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def samples(architecture: Architecture) -> dict[str, np.ndarray]:
    """16 inputs by name: images, or token ids with the mask of a sentence of random length."""
    rng = np.random.default_rng(0)
    if architecture.image:
        return {"image": rng.standard_normal((SAMPLES, 1, *architecture.image)).astype(np.float32)}
    tokens, vocabulary = architecture.text
    lengths = rng.integers(tokens // 2, tokens + 1, SAMPLES)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)[:, None]
    ids = np.where(mask == 1, rng.integers(1, vocabulary, (SAMPLES, 1, tokens)), 0)
    return {"input_ids": ids, "attention_mask": mask}


def export(model: nn.Module, path: Path, feed: dict[str, np.ndarray], outputs: list[str], opset: int, dynamo: bool, batch: bool) -> None:
    example = tuple(torch.from_numpy(value[0]) for value in feed.values())
    axes = {name: {0: "batch"} for name in [*feed, *outputs]} if batch else None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(
            model, example, str(path), input_names=list(feed), output_names=outputs, opset_version=opset,
            dynamo=dynamo, dynamic_axes=axes, external_data=False,
        )


def optimise_session(source: Path, target: Path, level: ort.GraphOptimizationLevel) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def optimise_transformer(source: Path, target: Path, kind: str, heads: int, width: int) -> None:
    from onnxruntime.transformers import optimizer

    optimizer.optimize_model(str(source), kind, num_heads=heads, hidden_size=width, opt_level=0).save_model_to_file(str(target))


def check(path: Path, feed: dict[str, np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference between onnxruntime on the file and PyTorch, over the first two samples."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    worst = 0.0
    for i in range(2):
        results = session.run(None, {name: feed[name][i] for name in names})
        worst = max([worst, *(float(np.abs(r - e[i]).max()) for r, e in zip(results, expected))])
    return worst


def attempt(path: Path, feed: dict, expected: list, write: Callable[[], None]) -> None:
    """Writes one file and checks it. What a tool refuses to write is printed, and no file stays; a file that
    onnxruntime cannot run (masks of `Attention` that broadcast) stays."""
    step = "refused"
    try:
        write()
        step = "kept, though onnxruntime refuses it"
        print(f"{path.name}: {path.stat().st_size} bytes, differs by {check(path, feed, expected):.1e}", flush=True)
    except Exception as error:  # the tools raise whatever they like
        if step == "refused":
            path.unlink(missing_ok=True)
        print(f"{path.name}: {step}: {(str(error).strip() or repr(error)).splitlines()[0][:160]}", flush=True)


def write_all(name: str, architecture: Architecture, folder: Path) -> None:
    model, written_out = fresh(architecture, "sdpa"), fresh(architecture, "eager")
    feed, outputs = samples(architecture), architecture.outputs
    with torch.no_grad():
        runs = [model(*(torch.from_numpy(value[i]) for value in feed.values())) for i in range(SAMPLES)]
    runs = [run if isinstance(run, tuple) else (run,) for run in runs]
    expected = [np.stack([run[i].numpy() for run in runs]) for i in range(len(outputs))]
    arrays = {f"in_{key}": value for key, value in feed.items()} | {f"out_{key}": value for key, value in zip(outputs, expected)}
    np.savez_compressed(folder / f"{name}.npz", **arrays)

    for opsets, dynamo, tag in ((TORCHSCRIPT_OPSETS, False, "ts"), (DYNAMO_OPSETS, True, "dy")):
        for opset in opsets:
            path = folder / f"{name}-{tag}{opset}.onnx"
            variant = written_out if opset < FIRST_FUNCTION_OPSET else model
            attempt(path, feed, expected, lambda: export(variant, path, feed, outputs, opset, dynamo, False))
    path = folder / f"{name}-ts17-batch.onnx"
    attempt(path, feed, expected, lambda: export(model, path, feed, outputs, 17, False, True))
    source = folder / f"{name}-ts17.onnx"
    if not source.exists():
        return
    levels = ort.GraphOptimizationLevel
    for tag, level in (("basic", levels.ORT_ENABLE_BASIC), ("extended", levels.ORT_ENABLE_EXTENDED)):
        path = folder / f"{name}-ort-{tag}.onnx"
        attempt(path, feed, expected, lambda: optimise_session(source, path, level))
    if architecture.fusion:
        path = folder / f"{name}-ort-fused.onnx"
        attempt(path, feed, expected, lambda: optimise_transformer(source, path, *architecture.fusion))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder outside the repository")
    parser.add_argument("--only", nargs="+", choices=ZOO, help="these architectures")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or ZOO:
        write_all(name, ZOO[name], args.out)


if __name__ == "__main__":
    main()
