"""Quantization-aware training: the forward pass is the runtime, integer by integer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import shiftformer
import shiftformer.torch
import torch
import torch.nn.functional as F
from conftest import PIXELS
from torch import nn

pytestmark = pytest.mark.torch

WIDTH, HEADS, ROWS = 24, 3, 7


def shaken(quantized, seed: int = 0):
    """Moves weights and scales as training does, so that nothing rests on how they were initialized."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in quantized.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator) * parameter.abs().mean().clamp(max=1)
    return quantized


def same(quantized, model, inputs: dict) -> int:
    """Asserts that every integer of every output is equal; how many there were."""
    theirs = model.run({name: value[:, None].numpy() for name, value in inputs.items()}, raw_outputs=True)
    ours = quantized.integers(**inputs)
    assert set(ours) == set(theirs)
    for name, own in ours.items():
        np.testing.assert_array_equal(theirs[name].reshape(own.shape), own.numpy(), err_msg=name)
        assert len(np.unique(own.numpy())) > min(own[0].numel(), 4)
    return sum(own.numel() for own in ours.values())


class Functions(nn.Module):
    """All functions of one number, each behind a layer of its own, and a gate."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(7))

    def forward(self, x):
        gelu, tanh_gelu, silu, relu, sigmoid, tanh, gate = (layer(x) for layer in self.layers)
        y = F.gelu(gelu) + F.gelu(tanh_gelu, approximate="tanh") + F.relu(relu) - torch.tanh(tanh)
        return y + F.silu(silu) * gate * torch.sigmoid(sigmoid)


class Attention(nn.Module):
    """Attention in parts, as vision transformers write it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, rows, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, rows, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        shares = ((q @ k.transpose(-2, -1)) * (width // HEADS) ** -0.5).softmax(-1)
        return self.proj((shares @ v).transpose(1, 2).reshape(batch, rows, width))


class Encoder(nn.Module):
    """PyTorch's own encoder layers, normalization first or last."""

    def __init__(self, first: bool):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, activation="gelu", norm_first=first, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class Vision(nn.Module):
    """Patches, a class token, positions."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(2, WIDTH, 3, stride=2, padding=1)
        self.token, self.pos = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 17, WIDTH) / 5)
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.last(x + self.attention(self.norm(x)))[:, 0])


class Text(nn.Module):
    """A text encoder with a mask, normalization last."""

    def __init__(self):
        super().__init__()
        self.words, self.pos = nn.Embedding(40, WIDTH), nn.Embedding(ROWS, WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.up, self.down, self.dropout = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH), nn.Dropout(0.1)

    def forward(self, input_ids, attention_mask):
        split = lambda y: y.view(y.shape[0], ROWS, HEADS, -1).transpose(1, 2)
        x = self.norms[0](self.words(input_ids) + self.pos(torch.arange(ROWS)))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), attn_mask=mask)
        x = self.norms[1](x + self.dropout(self.out(y.transpose(1, 2).flatten(2))))
        return self.norms[2](x + self.down(F.gelu(self.up(x))))


class Decoder(nn.Module):
    """A decoder with learned positions and a tied head."""

    def __init__(self, rms: bool = False):
        super().__init__()
        norm = nn.RMSNorm if rms else nn.LayerNorm
        self.wte, self.wpe = nn.Embedding(20, WIDTH), nn.Parameter(torch.randn(ROWS, WIDTH) / 4)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(norm(WIDTH, eps=1e-5) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)

    def forward(self, ids):
        split = lambda y: y.reshape(y.shape[0], y.shape[1], HEADS, -1).transpose(1, 2)
        x = self.wte(ids) + self.wpe
        h = self.norms[0](x)
        y = F.scaled_dot_product_attention(split(self.q(h)), split(self.k(h)), split(self.v(h)), is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.relu(self.up(self.norms[1](x))))
        return self.norms[2](x) @ self.wte.weight.t()


def rows(*shape: int) -> "torch.Tensor":
    return torch.randn(48, *shape, generator=torch.Generator().manual_seed(5))


def ids(most: int) -> "torch.Tensor":
    return torch.randint(0, most, (48, ROWS), generator=torch.Generator().manual_seed(6))


def masks() -> "torch.Tensor":
    lengths = torch.randint(2, ROWS + 1, (48, 1), generator=torch.Generator().manual_seed(7))
    return (torch.arange(ROWS) < lengths).long()


CASES = {
    "linear": (lambda: nn.Linear(WIDTH, 10), lambda: {"input": rows(WIDTH)}),
    "norm": (lambda: nn.LayerNorm(WIDTH), lambda: {"input": rows(ROWS, WIDTH)}),
    "rms norm": (lambda: nn.RMSNorm(WIDTH, eps=1e-6), lambda: {"x": rows(ROWS, WIDTH)}),
    "functions": (Functions, lambda: {"x": rows(ROWS, WIDTH)}),
    "attention": (Attention, lambda: {"x": rows(ROWS, WIDTH)}),
    "norm first": (lambda: Encoder(True), lambda: {"x": rows(ROWS, WIDTH)}),
    "norm last": (lambda: Encoder(False), lambda: {"x": rows(ROWS, WIDTH)}),
    "vision": (Vision, lambda: {"image": rows(2, 8, 8)}),
    "text": (Text, lambda: {"input_ids": ids(40), "attention_mask": masks()}),
    "decoder, whole": (Decoder, lambda: {"ids": ids(20)}),
    "decoder, rms": (lambda: Decoder(True), lambda: {"ids": ids(20)}),
}


@pytest.mark.parametrize("weights", [8, 4, 3, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_forward_pass_is_the_runtime(case, weights):
    make, data = CASES[case]
    torch.manual_seed(weights)
    inputs = data()
    quantized = shaken(shiftformer.torch.prepare(make(), inputs, weights=weights, wide_exp=weights == 4))
    # Which values a mask has only samples tell.
    model = quantized.convert({name: value[:, None].numpy() for name, value in inputs.items()} if case == "text" else None)
    assert same(quantized, model, inputs) >= 48 * 5


def test_calibration_of_the_converter_changes_nothing():
    inputs = {"x": rows(ROWS, WIDTH)}
    quantized = shaken(shiftformer.torch.prepare(Encoder(True), inputs, weights=4))
    model = quantized.convert({"x": inputs["x"][:, None].numpy()})
    same(quantized, model, inputs)
    assert model.conversion.sqnr_db > 20


def test_a_decoder_with_a_cache():
    torch.manual_seed(1)
    tokens = ids(20)
    quantized = shaken(shiftformer.torch.prepare(Decoder(), tokens, weights=4))
    model = quantized.convert(tokens.numpy(), context=ROWS)
    for sequence in tokens[:6]:
        integers = quantized.integers(ids=sequence[None])["output"]
        # Greedy: the token after every prefix is the largest of the last row.
        for length in (1, 3, ROWS - 1):
            grown = model.generate(sequence[:length].tolist(), tokens=1)
            assert grown.tokens[0] == int(integers[0, length - 1].argmax())


def digits_module():
    """A small vision transformer for the digits."""

    class Digits(Vision):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(1, WIDTH, 2, stride=2)
            self.head = nn.Linear(WIDTH, 10)

    return Digits()


def test_training_at_two_bits_learns_and_pixels_are_exact(images, models):
    data = np.load(models / "digits/calib.npz")
    pixels, labels = torch.from_numpy(data["in_image"][:, 0]), torch.from_numpy(data["label"])
    torch.manual_seed(3)
    module = digits_module()
    quantized = shiftformer.torch.prepare(module, pixels, weights=2, layers={"head": 8}, **PIXELS)
    optimizer = torch.optim.Adam(quantized.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(quantized(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    # The parameters are those of the module.
    assert module.head.weight is dict(quantized.named_parameters())["module.head.weight"]
    model = quantized.convert()
    assert model.inputs[0].takes_pixels
    same(quantized, model, {"image": torch.from_numpy(images["image"][:, 0])})


def test_every_parameter_has_a_gradient_and_evaluation_changes_nothing():
    inputs = {"x": rows(ROWS, WIDTH)}
    quantized = shiftformer.torch.prepare(Encoder(True), inputs, weights=4)
    quantized.train()
    trained = quantized(inputs["x"])
    trained.square().sum().backward()
    missing = [name for name, p in quantized.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # A bias of keys moves all scores of a row alike.
    assert [name for name in missing if "scale" not in name] == []
    quantized.eval()
    with torch.no_grad():
        assert torch.equal(quantized(inputs["x"]), trained)
    assert len(list(quantized.scales())) + len(list(quantized.weights())) == len(list(quantized.parameters()))


def test_gradients_are_those_of_the_float_layer():
    torch.manual_seed(2)
    layer, x = nn.Linear(WIDTH, 10), rows(WIDTH)
    quantized = shiftformer.torch.prepare(layer, x)
    free = x.clone().requires_grad_()
    grads = []
    for forward in (layer, quantized):
        free.grad, layer.weight.grad = None, None
        forward(free).sum().backward()
        grads.append((free.grad.clone(), layer.weight.grad.clone()))
    inside = (x.abs() < 0.9 * x.abs().max()).float()
    torch.testing.assert_close(grads[1][0] * inside, grads[0][0] * inside, rtol=0.02, atol=0.01)
    torch.testing.assert_close(grads[1][1], grads[0][1], rtol=0.02, atol=0.3)


def test_layers_of_their_own_and_formats(tmp_path):
    inputs = {"x": rows(ROWS, WIDTH)}
    quantized = shiftformer.torch.prepare(Encoder(True), inputs, weights=2, layers={"head": 8, "*.linear1": 4})
    quantized.export(tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {i.name: i.data_type for i in graph.initializer if i.name.endswith("/integers")}
    assert kinds["head.weight/integers"] == onnx.TensorProto.INT8
    assert kinds["encoder.layers.0.linear1.weight/integers"] == onnx.TensorProto.INT4
    small = onnx.numpy_helper.to_array(next(i for i in graph.initializer if "linear2.weight/integers" in i.name))
    assert set(np.unique(small.astype(np.int8))) <= {-2, -1, 0, 1}
    whole = quantized.convert().to_bytes()
    eight = shiftformer.torch.prepare(Encoder(True), inputs).convert().to_bytes()
    assert len(whole) < len(eight)


class Softmaxed(nn.Module):
    def forward(self, x):
        return x.softmax(-1)


class Branching(nn.Module):
    def forward(self, x):
        return x + 1.0 if x.sum() > 0 else x


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(-1).values


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(3, ROWS * WIDTH)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Softmaxed, "leave it out of the module, the loss takes the logits"),
        (Branching, "its control flow must not depend on the values of tensors"),
        (Sorted, "has no integer form here; leave it out of the module"),
        (Fixed, "take it from the shape of the input"),
    ],
)
def test_what_has_no_form_is_refused(module, text):
    with pytest.raises(shiftformer.ConversionError, match=text):
        shiftformer.torch.prepare(module(), rows(ROWS, WIDTH))


def test_bad_arguments():
    prepare, layer, x = shiftformer.torch.prepare, nn.Linear(WIDTH, 3), rows(WIDTH)
    with pytest.raises(shiftformer.UsageError, match="8, 4, 3, 2 bits, not 5"):
        prepare(layer, x, weights=5)
    with pytest.raises(shiftformer.UsageError, match="no layer is called `head`; there are `weight`|`linear`"):
        prepare(layer, x, layers={"head": 4})
    with pytest.raises(shiftformer.UsageError, match="give both or neither"):
        prepare(layer, x, mean=0.5)
    with pytest.raises(shiftformer.UsageError, match="takes a torch.nn.Module"):
        prepare("model.onnx", x)
    with pytest.raises(shiftformer.UsageError, match="give `mean` and `std`"):
        prepare(layer, torch.zeros(4, WIDTH, dtype=torch.uint8))
    with pytest.raises(shiftformer.DataError, match="at least one"):
        prepare(layer, [])
    with pytest.raises(shiftformer.DataError, match="no array for the input `input`"):
        prepare(layer, {"image": x})
    quantized = prepare(layer, x)
    with pytest.raises(shiftformer.DataError, match="the module takes `input`"):
        quantized(x, x)
    with pytest.raises(shiftformer.FileError, match="choose another path"):
        quantized.export("/nowhere/model.onnx")
