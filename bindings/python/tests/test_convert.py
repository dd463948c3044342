"""Conversions: the bytes of the command, from everything that holds samples."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import pytest
import shiftformer
from conftest import PIXELS
from shiftformer import _native


def test_every_option_of_the_command_is_an_argument():
    here = {name.replace("_", "-") for name in inspect.signature(shiftformer.convert).parameters}
    # The result is an object here.
    assert set(_native.convert_options()) - here == {"json"}
    generate = {name.replace("_", "-") for name in inspect.signature(shiftformer.Model.generate).parameters}
    assert set(_native.generate_options()) - generate == {"json", "prompt-ids"}


@pytest.mark.parametrize(
    "options", [{}, {"weights": 4, "calib_samples": 16}, {"profile": "lut", "strip": True, "equalize": False, "calib_samples": 16}]
)
def test_bytes_are_those_of_the_command(models, command, tmp_path, options):
    folder = models / "digits"
    arguments = ["convert", folder / "digits-vit.onnx", "-o", tmp_path / "a.sfm", "--calib", folder / "calib.npz"]
    arguments += ["--mean", PIXELS["mean"], "--std", PIXELS["std"]]
    for name, value in options.items():
        text = {False: "off"}.get(value, value) if name == "equalize" else value
        option = "--" + name.replace("_", "-")
        arguments += [option] if value is True else [option, text]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    model = shiftformer.convert(
        folder / "digits-vit.onnx", folder / "calib.npz", output=tmp_path / "b.sfm", **PIXELS, **options
    )
    assert (tmp_path / "a.sfm").read_bytes() == (tmp_path / "b.sfm").read_bytes() == model.to_bytes()
    assert str(model).split("\n")[1:] == done.stdout.split("\n")[1:]


#: A conversion without trials.
FAST = {"range": "minmax", "equalize": False, "wide_exp": False, "activations": 8, **PIXELS}


def test_everything_that_holds_samples_gives_the_same_bytes(models):
    folder = models / "digits"
    path = folder / "digits-vit.onnx"
    pixels = np.load(folder / "calib.npz")["in_image"]
    proto = onnx.load(path)

    class Tensor:
        """As much of a torch tensor as is looked at."""

        requires_grad = True

        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def detach(self):
            return self.array

        def __array__(self, *_, **__):
            raise RuntimeError("call detach() first")

    calibrations = {
        "dict": {"image": pixels},
        "npz names": {"in_image": pixels},
        "array": pixels,
        "without axes of 1": pixels.reshape(-1, 8, 8),
        "fortran": {"image": np.asfortranarray(pixels)},
        "every other": {"image": np.repeat(pixels, 2, axis=0)[::2]},
        "samples": (sample[0] for sample in pixels),
        "batches with labels": [(pixels[i : i + 50, 0], np.zeros(50)) for i in range(0, len(pixels), 50)],
        "dicts": [{"image": sample} for sample in pixels],
        "tensors": [[Tensor(pixels[:100]), Tensor(np.zeros(100))], [Tensor(pixels[100:]), Tensor(np.zeros(28))]],
    }
    expected = shiftformer.convert(path, folder / "calib.npz", **FAST)
    for name, calib in calibrations.items():
        assert shiftformer.convert(path, calib, **FAST) == expected, name
    for model in (proto, path.read_bytes(), str(path)):
        assert shiftformer.convert(model, pixels, name="digits-vit.onnx", **FAST) == expected


def test_an_iterable_is_not_read_beyond_the_samples(models):
    def forever():
        while True:
            yield np.arange(64, dtype=np.uint8).reshape(1, 8, 8)

    model = shiftformer.convert(models / "digits/digits-vit.onnx", forever(), calib_samples=4, accept_sqnr=-300, **PIXELS)
    assert model.conversion is not None and model.conversion.calibration_samples == 4


def test_a_model_with_scales_of_its_own_needs_no_samples(models):
    assert shiftformer.convert(models / "digits/digits-vit-qdq.onnx").run(image=np.zeros((3, 1, 8, 8)))["logits"].shape == (3, 10)


def test_labels_and_progress(models):
    steps = []
    folder = models / "digits"
    model = shiftformer.convert(
        folder / "digits-vit.onnx",
        folder / "calib.npz",
        labels=[f"digit {i}" for i in range(10)],
        progress=lambda step, done, total: steps.append(step),
        **FAST,
    )
    assert model._model.labels(0)[7] == "digit 7"
    assert steps[:3] == ["reading the model", "reading the samples", "calibrating"]


def test_a_callback_that_raises_ends_the_conversion(models):
    def stop(step, done, total):
        if step == "calibrating":
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        shiftformer.convert(models / "digits/digits-vit.onnx", models / "digits/calib.npz", progress=stop, **PIXELS)


def test_a_decoder_converts_and_generates(models, command, tmp_path):
    folder = models / "arithmetic"
    ids = np.load(folder / "calib.npz")["ids"]
    options = {"context": 13, "calib_samples": 16, "accept_sqnr": -300}
    arguments = ["--context", 13, "--calib", folder / "calib.npz", "--calib-samples", 16, "--accept-sqnr=-300"]
    done = command("convert", folder / "arithmetic.onnx", "-o", tmp_path / "a.sfm", *arguments)
    assert done.returncode == 0, done.stderr
    made = [shiftformer.convert(folder / "arithmetic.onnx", calib, **options) for calib in ({"ids": ids}, list(ids))]
    assert all(model.to_bytes() == (tmp_path / "a.sfm").read_bytes() for model in made)
    assert made[0].is_decoder and made[0].inspect().state.positions == 13
