"""Tensors and loaders of torch."""

from __future__ import annotations

import io

import numpy as np
import pytest
import shiftformer
from conftest import PIXELS

pytestmark = pytest.mark.torch


def test_a_data_loader_calibrates(models, digits):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    arrays = np.load(models / "digits/calib.npz")
    pixels, labels = (torch.from_numpy(arrays[name]) for name in ("in_image", "label"))
    onnx = models / "digits/digits-vit.onnx"
    for data in (TensorDataset(pixels[:, 0], labels), TensorDataset(pixels)):
        assert shiftformer.convert(onnx, DataLoader(data, batch_size=50), **PIXELS) == digits
    as_dicts = [{"image": image} for image in pixels]
    assert shiftformer.convert(onnx, DataLoader(as_dicts, batch_size=16), **PIXELS) == digits


def test_tensors_run(digits, images):
    import torch

    expected = digits.run(image=images["image"])["logits"]
    tensor = torch.from_numpy(images["image"])
    np.testing.assert_array_equal(digits.run(image=tensor)["logits"], expected)
    np.testing.assert_array_equal(digits.run(image=tensor.flip(0))["logits"], expected[::-1])
    real = (tensor.float() / 255 - PIXELS["mean"]) / PIXELS["std"]
    trained = real.clone().requires_grad_()
    for other in (trained, real.bfloat16(), real.half(), real.double()):
        assert digits.run(image=other)["logits"].shape == (360, 10)
    with pytest.raises(shiftformer.DeviceError, match=r"on meta; move it first: tensor.cpu\(\)"):
        digits.run(image=torch.zeros(1, 1, 8, 8, device="meta"))


def test_a_module_is_to_be_exported_first():
    import torch

    with pytest.raises(shiftformer.UsageError, match="export it first: torch.onnx.export"):
        shiftformer.convert(torch.nn.Linear(2, 2), np.zeros((1, 2)))


def test_an_exported_module_converts(images):
    import torch

    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
    samples = torch.randn(64, 8)
    file = io.BytesIO()
    torch.onnx.export(module.eval(), (samples[:1],), file, input_names=["x"], output_names=["y"], dynamo=False)
    model = shiftformer.convert(file.getvalue(), samples)
    with torch.no_grad():
        reference = module(samples).numpy()
    result = model.evaluate(samples, reference=reference)
    assert result.sqnr_db > 30
