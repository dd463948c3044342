"""Quantization-aware training: modules whose forward pass gives the numbers of the integer runtime.

>>> import shiftformer.torch                                                        # doctest: +SKIP
>>> quantized = shiftformer.torch.prepare(model, calib, weights=4)                  # doctest: +SKIP
>>> ...  # train it as any module
>>> quantized.export("model.onnx")                                                  # doctest: +SKIP
>>> shiftformer.convert("model.onnx", calib, **quantized.options)                   # doctest: +SKIP
"""

from __future__ import annotations

try:
    import torch as _torch
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "shiftformer.torch needs PyTorch 2.6 or later: pip install shiftformer[torch] (or torch alone, from the index of your "
        "processor: https://pytorch.org/get-started)"
    ) from error

if not hasattr(getattr(getattr(_torch, "export", None), "Dim", None), "AUTO"):
    raise ImportError(f"shiftformer.torch needs PyTorch 2.6 or later, this is {_torch.__version__}: pip install -U torch")

from ._module import QuantizedModule, prepare

__all__ = ["QuantizedModule", "prepare"]
