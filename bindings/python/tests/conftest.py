"""Models of the repository, and the command to compare with."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import shiftformer

MODELS = Path(os.environ.get("SHIFTFORMER_MODELS", Path(__file__).resolve().parents[3] / "models"))
# Its modules are classes of torch; that it is there is what the other tests with this marker find out.
collect_ignore = [] if importlib.util.find_spec("torch") else ["test_qat.py"]
PIXELS = {"mean": 0.3057, "std": 0.376}


@pytest.fixture(scope="session")
def models() -> Path:
    return MODELS


@pytest.fixture(scope="session")
def command() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command ``shiftformer`` of this workspace."""
    program = os.environ.get("SHIFTFORMER_COMMAND")
    if program is None:
        pytest.fail("SHIFTFORMER_COMMAND is not set: run `cargo xtask wheel`, or set it to the command's path")

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def digits() -> shiftformer.Model:
    """The bundled vision transformer."""
    folder = MODELS / "digits"
    return shiftformer.convert(folder / "digits-vit.onnx", folder / "calib.npz", **PIXELS)


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    with np.load(MODELS / "digits/eval.npz") as archive:
        return {"image": archive["in_image"], "label": archive["label"], "out_logits": archive["out_logits"]}


@pytest.fixture(scope="session")
def arithmetic() -> shiftformer.Model:
    """The bundled language model."""
    return shiftformer.Model(MODELS / "arithmetic/arithmetic.sfm")
