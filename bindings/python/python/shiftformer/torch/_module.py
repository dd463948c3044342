"""Preparing a module for quantization-aware training."""

from __future__ import annotations

import fnmatch
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from .._arrays import is_array, to_numpy
from .._errors import ConversionError, DataError, ShapeError, UsageError
from . import _grids as grids
from . import _integers as ints
from ._grids import Forms, Grid, Quantizer, WeightQuantizer
from ._plan import MAKERS, Plan, Step, _attribute, aten

Path = Union[str, "os.PathLike[str]"]

#: Bits that weights can have.
BITS = (8, 4, 3, 2)
#: Steps of 16 bits that the largest value seen takes: a third of the range is left, as the converter leaves it.
WIDE_TOP = 22000.0
#: Values kept of each activation over the calibration samples.
KEPT = 1 << 16
#: Least real value of what hides a score.
HIDING = -1e9


class QuantizedModule(nn.Module):
    """A module whose forward pass gives the numbers of the integer runtime, with straight-through gradients.

    Made by :func:`prepare`. It takes and returns what the module did; its parameters are those of the module, under
    ``module.``, and the scales. Attributes:

    Attributes:
        options: Keyword arguments for :func:`shiftformer.convert` with which it keeps these numbers.
        input_names: Names of the inputs, those of the arguments of ``forward``.
        output_names: Names of the outputs.
    """

    def __init__(
        self, gm: GraphModule, plan: Plan, input_names: list[str], output_names: list[str], examples: tuple[Tensor, ...],
        weights: int, layers: Mapping[str, int], pixels: Optional[tuple[float, float]], wide_exp: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        # Captured graphs refuse to be children of a module that is trained.
        self._graph = [gm]
        self._plan, self._examples, self._pixels, self._wide_exp = plan, examples, pixels, wide_exp
        self.input_names, self.output_names = input_names, output_names
        self.module = nn.Module()
        self._adopt(gm)
        self.quantizers = nn.ModuleDict()
        self.weight_quantizers = nn.ModuleDict()
        self._make_quantizers(weights, layers)
        self.options: dict[str, Any] = {"wide_exp": wide_exp, "activations": 8, "equalize": False}
        if pixels is not None:
            self.options.update(mean=pixels[0], std=pixels[1])

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _adopt(self, gm: GraphModule) -> None:
        """Takes parameters and buffers under their own names; what is shared stays shared."""
        known: dict[int, Any] = {}
        for node in self._plan.nodes:
            if node.op != "get_attr":
                continue
            path, value = str(node.target), _attribute(gm, str(node.target))
            *folders, name = path.split(".")
            at = self.module
            for folder in folders:
                if not hasattr(at, folder):
                    at.add_module(folder, nn.Module())
                at = getattr(at, folder)
            if hasattr(at, name):
                continue
            value = known.setdefault(id(value), value)
            if isinstance(value, nn.Parameter):
                at.register_parameter(name, value)
            else:
                at.register_buffer(name, value)

    def _make_quantizers(self, weights: int, layers: Mapping[str, int]) -> None:
        used: set[str] = set()
        for node, step in self._plan.steps.items():
            if step.kind in ("linear", "conv"):
                path = self.layer_name(node)
                bits = weights
                for pattern, own in layers.items():
                    if fnmatch.fnmatchcase(path, pattern):
                        bits = own
                        used.add(pattern)
                weight = self._value_of(step.info["weight"])
                weight = weight.t() if step.info.get("turned") else weight
                self.weight_quantizers[node.name] = WeightQuantizer(weight, bits)
            if step.kind in MAKERS and node not in self._plan.absorbed and not self._is_pixels(node):
                narrow, wide, symmetric = self._plan.bits(node)
                if narrow:
                    self.quantizers[f"{node.name}__8"] = Quantizer(8, symmetric)
                if wide:
                    self.quantizers[f"{node.name}__16"] = Quantizer(16, True)
        unknown = [pattern for pattern in layers if pattern not in used]
        if unknown:
            names = ", ".join(f"`{self.layer_name(n)}`" for n, s in self._plan.steps.items() if s.kind in ("linear", "conv"))
            raise UsageError(f"no layer is called `{unknown[0]}`; there are {names}")
        for node, step in self._plan.steps.items():
            if step.kind == "attention":
                values = self._plan.source(step.info["v"])
                self._quantizer(node, 8).near = self._find(values, 8)

    def layer_name(self, node: Node) -> str:
        """The path of the layer in the module, as its parameters have it."""
        at: Any = self._plan.steps[node].info["weight"]
        while isinstance(at, Node) and at.op != "get_attr":
            at = next(iter(at.all_input_nodes), None)
        path = str(at.target) if isinstance(at, Node) else node.name
        return path[: -len(".weight")] if path.endswith(".weight") else path

    def _is_pixels(self, node: Node) -> bool:
        shape = node.meta["val"].shape if self._pixels is not None and node.op == "placeholder" else ()
        return self._pixels is not None and self._plan.steps[node].kind == "input" and len(shape) >= 3

    def _find(self, node: Node, bits: int) -> Optional[Quantizer]:
        name = f"{node.name}__{bits}"
        found = self.quantizers[name] if name in self.quantizers else None
        assert found is None or isinstance(found, Quantizer)
        return found

    def _quantizer(self, node: Node, bits: int) -> Quantizer:
        found = self._find(node, bits)
        assert found is not None, node
        return found

    def _value_of(self, node: Any) -> Tensor:
        """A constant of the graph, computed from parameters."""
        if not isinstance(node, Node):
            return torch.as_tensor(node)
        if node.op == "get_attr":
            value: Tensor = _attribute(self.module, str(node.target))
            return value
        env = {n: self._value_of(n) for n in node.all_input_nodes}
        result: Tensor = called(node, env)
        return result

    def scales(self) -> Iterator[nn.Parameter]:
        """The trained scales, as logarithms: a learning rate of their own may help."""
        for name, parameter in self.named_parameters():
            if name.startswith(("quantizers.", "weight_quantizers.")):
                yield parameter

    def weights(self) -> Iterator[nn.Parameter]:
        """The parameters of the module."""
        for name, parameter in self.named_parameters():
            if name.startswith("module."):
                yield parameter

    # -- the forward pass ----------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returned, computed with the numbers of the runtime."""
        results = [r.any().real() if isinstance(r, Forms) else r for r in self._run(args, kwargs)]
        return self._graph[0].graph.process_outputs(tuple(results))

    def integers(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The integers of the outputs, by name: those of ``Model.run(..., raw_outputs=True)``."""
        with torch.no_grad():
            results = self._run(args, kwargs)
        return {n: r.any().whole() for n, r in zip(self.output_names, results) if isinstance(r, Forms)}

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        given = bound(self.input_names, args, kwargs)
        env: dict[Node, Any] = {}
        plan, inputs = self._plan, iter(self.input_names)
        for node in plan.nodes:
            if node.op == "placeholder":
                value = given[next(inputs)]
                env[node] = self._input(node, value) if node in plan.active else value
            elif node.op == "get_attr":
                env[node] = _attribute(self.module, str(node.target))
            elif node.op == "output":
                results: Any = node.args[0]
                return [env[n] if isinstance(n, Node) else n for n in results]
            elif node.op == "call_module" or node in plan.absorbed:
                continue
            elif node in plan.steps:
                env[node] = self._step(node, plan.steps[node], env)
            else:
                # Sizes of computed values, masks, whatever the integers do not depend on.
                known = {n: env[n].any().q if isinstance(env[n], Forms) else env[n] for n in node.all_input_nodes}
                env[node] = called(node, known)
        raise AssertionError("a graph ends with its outputs")

    def _input(self, node: Node, value: Tensor) -> Forms:
        if self._is_pixels(node):
            assert self._pixels is not None
            mean, std = self._pixels
            exact, zero = 1.0 / (255.0 * std), 255.0 * mean - 128.0
            if value.dtype == torch.uint8:
                q = value.to(torch.float32) - 128
            else:
                q = (value.detach() / exact + zero).round().clamp(-128, 127)
            return Forms(narrow=Grid(q, torch.tensor(exact, device=q.device), exact, zero, 8))
        return self._forms(node, lambda out: out.of_real(value))

    def _forms(self, node: Node, make: Any) -> Forms:
        """What a step makes: in 16 bits, and 8 of these, or in 8 at once; attention makes 8 in any case."""
        narrow, wide = self._find(node, 8), self._find(node, 16)
        if wide is None or self._plan.steps[node].kind == "attention":
            value = make(narrow)
            return Forms(value, None if wide is None else wide.of_grid(value))
        value = make(wide)
        return Forms(None if narrow is None else narrow.of_grid(value), value)

    def _step(self, node: Node, step: Step, env: dict[Node, Any]) -> Any:
        kind, info = step.kind, step.info

        def value(of: Any) -> Any:
            return env[of] if isinstance(of, Node) else of

        if kind == "same":
            return env[step.inputs[0]]
        if kind == "move":
            return self._moved(node, env)
        if kind == "scale":
            return env[step.inputs[0]].scaled(info["by"])
        if kind == "linear":
            return self._forms(node, lambda out: self._linear(node, env, out))
        if kind == "conv":
            return self._forms(node, lambda out: self._conv(node, env, out))
        if kind == "norm":
            x = env[step.inputs[0]].any()
            gamma, beta = value(info["weight"]), value(info["bias"])
            gamma = torch.ones(1, device=x.q.device).expand(x.q.shape[-1]) if gamma is None else gamma
            return self._forms(node, lambda out: grids.norm(x, gamma, beta, info["eps"], info["rms"], out))
        if kind == "table":
            return self._forms(node, lambda out: grids.function(info["name"], env[step.inputs[0]].eight(), out))
        if kind == "mean":
            x = env[step.inputs[0]].any()
            return self._forms(node, lambda out: grids.mean(x, info["dims"], info["keep"], out))
        if kind == "embedding":
            table = grids.constant(value(info["weight"]), 8)
            rows = table.moved(F.embedding(value(info["ids"]).long(), table.q))
            wide = self._find(node, 16)
            return Forms(rows) if wide is None else Forms(rows, wide.of_grid(rows))
        if kind == "attention":
            return self._forms(node, lambda out: self._attention(step, env, out))
        if kind == "join":
            return self._forms(node, lambda out: self._join(step, env, out))
        if kind == "sum" and step.residual is not None:
            layer, stream = step.residual, env[info["stream"]].wide
            return self._forms(node, lambda out: self._linear(layer, env, out, stream))
        operands = [self._operand(of, env) for of in (info["a"], info["b"])]
        if kind == "sum":
            return self._forms(node, lambda out: grids.add(operands[0], operands[1], out, info["sign"]))
        assert kind == "product", kind
        return self._forms(node, lambda out: grids.mul(operands[0], operands[1], out))

    def _operand(self, of: Any, env: dict[Node, Any]) -> Grid:
        value = env[of] if isinstance(of, Node) else torch.as_tensor(of)
        return value.any() if isinstance(value, Forms) else grids.constant(value, 16)

    def _moved(self, node: Node, env: dict[Node, Any]) -> Any:
        source: Any = node.args[0]
        value = env[source]
        if isinstance(value, tuple):
            index: Any = node.args[1]
            return value[index]
        return value.moved(lambda q: called(node, {**env, source: q}))

    def _linear(self, node: Node, env: dict[Node, Any], out: Quantizer, residual: Optional[Grid] = None) -> Grid:
        step = self._plan.steps[node]
        weight, bias = env[step.info["weight"]], step.info["bias"]
        weight = weight.t() if step.info.get("turned") else weight
        quantizer = self.weight_quantizers[node.name]
        assert isinstance(quantizer, WeightQuantizer)
        x = env[step.inputs[0]].eight()
        bias = env[bias] if isinstance(bias, Node) else bias
        return grids.dense(x, weight, quantizer, bias, out, lambda q, w: F.linear(q, w), residual)

    def _conv(self, node: Node, env: dict[Node, Any], out: Quantizer) -> Grid:
        info = self._plan.steps[node].info
        quantizer = self.weight_quantizers[node.name]
        assert isinstance(quantizer, WeightQuantizer)
        x = env[self._plan.steps[node].inputs[0]].eight()
        stride, dilation = info.get("stride") or [1, 1], info.get("dilation") or [1, 1]
        before, after = conv_pads(info, list(x.q.shape[2:]), stride, dilation)
        if any(before + after):
            # Padding needs a whole zero point.
            x = Grid(x.q, x.scale, x.exact, float(ints.half_away(x.zero)), x.bits, x.factor)
            pads = [before[1], after[1], before[0], after[0]]
            x = x.moved(F.pad(x.q, pads, value=float(np.clip(x.zero, -128, 127))))

        def product(q: Tensor, w: Tensor) -> Tensor:
            return F.conv2d(q, w, None, stride, 0, dilation)

        bias = env[info["bias"]] if isinstance(info["bias"], Node) else None
        return grids.dense(x, env[info["weight"]], quantizer, bias, out, product, dims=1)

    def _attention(self, step: Step, env: dict[Node, Any], out: Quantizer) -> Grid:
        q, k, v = (env[step.info[name]].eight() for name in "qkv")
        if not step.info["turned"]:
            k = k.moved(k.q.transpose(-2, -1))
        rows, keys = q.q.shape[-2], k.q.shape[-1]
        return grids.attention(q, k, v, step.info["scale"], mask_of(step, env, rows, keys, q.q), self._wide_exp, out)

    def _join(self, step: Step, env: dict[Node, Any], out: Quantizer) -> Grid:
        """Parts in the scale of the result; constants come from their own 16 bits."""
        scale = out.scale()
        exact = float(scale.detach())
        parts = []
        for part in step.info["parts"]:
            value = env[part]
            if isinstance(value, Forms):
                grid = value.any()
                same = grid.bits == 16 and grid.step == exact
                parts.append(grid.q if same else out.of_grid(grid).q)
            else:
                own = grids.constant(value, 16)
                steps = torch.from_numpy(ints.half_away(own.whole().cpu().numpy() * own.exact / exact)).to(own.q.device)
                parts.append(grids.straight(partial(torch.div, value, exact), steps, 16))
        return Grid(torch.cat(parts, step.info["dim"]), scale, exact, 0, 16)

    # -- calibration ---------------------------------------------------------------------------------------------------

    def calibrate(self, samples: Mapping[str, Tensor], batch: int = 64) -> None:
        """Takes the ranges of all activations from samples, and forgets what scales have learned of them."""
        seen = _Observer(self)
        count = len(next(iter(samples.values())))
        with torch.no_grad():
            for start in range(0, count, batch):
                parts = [samples[name][start : start + batch] for name in self.input_names]
                seen.run(*[self._real(value) for value in parts])
        extents = {node: float(np.abs(values).max(initial=0.0)) for node, values in seen.values.items()}
        groups = _Groups()
        for node, step in self._plan.steps.items():
            if step.kind in ("sum", "join"):
                for other in step.inputs:
                    if (step.kind, step.residual) == ("sum", None) or other is not step.residual:
                        groups.join(node, self._plan.source(other))
            if step.kind == "join":
                for part in step.info["parts"]:
                    if part not in self._plan.active:
                        extents[node] = max(extents.get(node, 0.0), extents.pop(part))
        largest: dict[Node, float] = {}
        for node, extent in extents.items():
            root = groups.root(node)
            if self._find(node, 16) is not None:
                largest[root] = max(largest.get(root, 0.0), extent)
        for node, values in seen.values.items():
            wide, narrow = self._find(node, 16), self._find(node, 8)
            if wide is not None:
                wide.set(max(largest[groups.root(node)], 1e-6) / WIDE_TOP)
            if narrow is not None:
                readers = [self._plan.steps[u] for u in self._readers(node)]
                clipped = bool(readers) and all(r.kind == "table" and r.info["name"] == "relu" for r in readers)
                narrow.set(*_range(values, narrow.symmetric, clipped))

    def _readers(self, node: Node) -> list[Node]:
        found: list[Node] = []
        for user in node.users:
            step = self._plan.steps.get(user)
            if step is None:
                continue
            found += self._readers(user) if step.kind in ("move", "same") else [user]
        return found

    def _real(self, value: Tensor) -> Tensor:
        if value.dtype != torch.uint8 or self._pixels is None:
            return value
        return (value.to(torch.float32) / 255 - self._pixels[0]) / self._pixels[1]

    # -- results -------------------------------------------------------------------------------------------------------

    def export(self, path: Path) -> None:
        """Writes an ONNX model with the trained scales, which :func:`shiftformer.convert` keeps.

        Weights are integers (``INT4`` up to 4 bits), activations QuantizeLinear/DequantizeLinear pairs of 8 and 16 bits;
        opset 21. One sample, as the runtime takes it. Needs the package ``onnx``.

        Raises:
            FileError: It cannot be written.
        """
        from ._export import write_onnx

        write_onnx(self, path)

    def convert(self, calib: Any = None, **options: Any) -> Any:
        """Exports and converts with :attr:`options`: a :class:`shiftformer.Model` with the numbers of this module.

        Args:
            calib: Samples to measure the model by; the scales are those of the module with and without. Needed where a mask
                is computed from an input, and for a decoder with ``context``.
            options: Further options of :func:`shiftformer.convert`.
        """
        import tempfile

        from .._convert import convert

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            self.export(path)
            return convert(path, calib, **{**self.options, **options})


class _Observer(Interpreter):
    """Runs the graph in floats and keeps what activations look like."""

    def __init__(self, module: QuantizedModule) -> None:
        super().__init__(module._graph[0])
        rounded = (module._find(node, 8) is not None or module._find(node, 16) is not None for node in module._plan.nodes)
        self._wanted = {node for node, wanted in zip(module._plan.nodes, rounded) if wanted}
        # Constants that values are joined with.
        for step in module._plan.steps.values():
            if step.kind == "join":
                self._wanted.update(step.info["parts"])
        self.values: dict[Node, np.ndarray[Any, Any]] = {}
        self._generator = np.random.default_rng(0)

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module":
            return None
        result = super().run_node(n)
        if n in self._wanted:
            flat = result.detach().cpu().float().flatten().numpy()
            if len(flat) > KEPT // 4:
                ends = [flat.min(), flat.max()]
                flat = np.concatenate([self._generator.choice(flat, KEPT // 4), ends])
            old = self.values.get(n)
            joined = flat if old is None else np.concatenate([old, flat])
            if len(joined) > 4 * KEPT:
                ends = [joined.min(), joined.max()]
                joined = np.concatenate([self._generator.choice(joined, KEPT), ends])
            self.values[n] = joined
        return result


class _Groups:
    """Sets of values with one scale."""

    def __init__(self) -> None:
        self._up: dict[Node, Node] = {}

    def root(self, node: Node) -> Node:
        while node in self._up:
            node = self._up[node]
        return node

    def join(self, a: Node, b: Node) -> None:
        a, b = self.root(a), self.root(b)
        if a is not b:
            self._up[b] = a


def _range(values: np.ndarray[Any, Any], symmetric: bool, clipped: bool) -> tuple[float, int]:
    """Scale and zero point with the smallest square error over ``values``; 0 is a step."""
    low, high = min(float(values.min(initial=0.0)), 0.0), max(float(values.max(initial=0.0)), 0.0)
    if clipped:
        low = 0.0
    x = values[:: max(1, len(values) // 8192)]
    if clipped:
        x = np.maximum(x, 0.0)
    best, least = (max(high, -low, 1e-6) / 127.0, 0), float("inf")
    for cut in np.linspace(1.0, 0.4, 25):
        for other in [cut] if symmetric or clipped else np.linspace(1.0, 0.4, 13):
            if symmetric:
                scale, zero = max(high, -low, 1e-6) * float(cut) / 127.0, 0
            else:
                scale = max((high * float(cut) - low * float(other)) / 255.0, 1e-8)
                zero = int(np.clip(round(-128 - low * float(other) / scale), -128, 127))
            q = np.clip(np.rint(x / scale) + zero, -128, 127)
            error = float(np.square((q - zero) * scale - x).sum())
            if error < least:
                best, least = (scale, zero), error
    return best


def called(node: Node, env: Mapping[Node, Any]) -> Any:
    """What the operation of ``node`` makes of the values ``env`` of its operands."""

    def find(n: Node) -> Any:
        return env[n]

    # Integers may lie in memory otherwise than floats did.
    target: Any = aten.reshape.default if node.target in (aten.view.default, aten._unsafe_view.default) else node.target
    return target(*map_arg(node.args, find), **map_arg(node.kwargs, find))


def mask_of(step: Step, env: Mapping[Node, Any], rows: int, keys: int, like: Tensor) -> Optional[Tensor]:
    """What is added to the scores of an attention, in reals."""
    mask = step.info["mask"]
    if step.info["causal"]:
        seen = torch.ones(rows, keys, dtype=torch.bool, device=like.device).tril()
        return torch.where(seen, 0.0, HIDING)
    if mask is None:
        return None
    value: Tensor = env[mask] if isinstance(mask, Node) else mask
    if step.info.get("fill"):
        return torch.where(value, HIDING, 0.0)
    if value.dtype == torch.bool:
        return torch.where(value, 0.0, HIDING)
    return value.float().clamp(min=HIDING)


def conv_pads(info: Mapping[str, Any], size: list[int], stride: Any, dilation: Any) -> tuple[list[int], list[int]]:
    """Rows and columns before and after an image."""
    padding = info.get("padding", 0)
    if padding == "valid" or padding is None:
        return [0, 0], [0, 0]
    if padding == "same":
        kernel = info["weight"].meta["val"].shape[2:]
        total = [d * (int(k) - 1) for d, k in zip(dilation, kernel)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    pads = [padding] * 2 if isinstance(padding, int) else list(padding)
    pads = pads * 2 if len(pads) == 1 else pads
    return pads, pads


def bound(names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the inputs."""
    given = {**dict(zip(names, args)), **kwargs}
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown or missing or len(args) > len(names):
        raise DataError(f"the module takes {', '.join(f'`{n}`' for n in names)}; give these and no more")
    return {name: torch.as_tensor(value) for name, value in given.items()}


def _collected(calib: Any, names: list[str], limit: int) -> dict[str, Tensor]:
    """At most so many samples by input name."""

    def one(item: Any) -> dict[str, Tensor]:
        if hasattr(item, "keys") and not is_array(item):
            missing = [name for name in names if name not in item and f"in_{name}" not in item]
            if missing:
                raise DataError(f"`calib` has no array for the input `{missing[0]}`; it has {', '.join(map(str, item))}")
            found = {name: item[name if name in item else f"in_{name}"] for name in names}
        elif isinstance(item, (tuple, list)):
            if len(item) < len(names):
                raise DataError(f"an item of `calib` holds {len(item)} arrays, the module takes {len(names)}")
            # What follows the inputs are labels.
            found = dict(zip(names, item))
        elif len(names) == 1:
            found = {names[0]: item}
        else:
            raise DataError(f"an item of `calib` is one array, the module takes {', '.join(names)}; give a dict by name")
        return {n: v.detach() if isinstance(v, Tensor) else torch.from_numpy(to_numpy(v, n).copy()) for n, v in found.items()}

    whole = is_array(calib) or hasattr(calib, "keys")
    if not whole and not isinstance(calib, Iterable):
        raise DataError("`calib` is to be a tensor, a dict of tensors by input name, or an iterable of batches (a DataLoader)")
    parts: list[dict[str, Tensor]] = []
    for item in [calib] if whole else calib:
        parts.append(one(item))
        if sum(len(next(iter(p.values()))) for p in parts) >= limit:
            break
    if not parts:
        raise DataError("`calib` holds no samples; give at least one")
    joined = {name: torch.cat([part[name] for part in parts])[:limit] for name in names}
    sizes = {name: len(value) for name, value in joined.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ShapeError(f"all inputs of `calib` need as many samples, and one at least; they have {sizes}")
    return joined


def prepare(
    module: nn.Module,
    calib: Any,
    *,
    weights: int = 8,
    layers: Optional[Mapping[str, int]] = None,
    mean: Optional[float] = None,
    std: Optional[float] = None,
    wide_exp: bool = False,
    calib_samples: int = 256,
) -> QuantizedModule:
    """Makes of a module one that computes, in its forward pass, the numbers of the integer runtime.

    The module is captured with ``torch.export`` and not changed; its parameters are shared, so that training one trains the
    other. It may hold ``nn.Linear``, ``nn.Conv2d``, ``nn.LayerNorm``, ``nn.RMSNorm``, ``nn.Embedding``, GELU, SiLU, ReLU,
    sigmoid, tanh, sums, products, means, movements, and attention as ``nn.MultiheadAttention``,
    ``F.scaled_dot_product_attention`` or in parts with a softmax. Dropout is left out.

    Args:
        module: The trained float module. Inputs have the batch as their first dimension.
        calib: Samples for the ranges of activations: a tensor or an array, a dict of them by the names of the arguments of
            ``forward``, or an iterable of batches such as a ``DataLoader``; labels behind the inputs are ignored.
            ``uint8`` are raw pixels, see ``mean``.
        weights: Bits of the weights: 8, 4, 3 or 2, symmetric around 0, a scale per output channel.
        layers: Bits of single layers, by the path of the layer, in which ``*`` stands for anything.
        mean, std: The device takes raw pixels ``x``, the module ``(x / 255 - mean) / std``.
        wide_exp: 16-bit exponentials in attention.
        calib_samples: Use at most the first so many samples.

    Returns:
        The module to be trained; see :class:`QuantizedModule`.

    Raises:
        ConversionError: The module cannot be captured, or has an operation without an integer form.
        DataError: The samples do not fit it.
        UsageError: An argument is unknown.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"prepare takes a torch.nn.Module, not {type(module).__name__}")
    for bits in [weights, *(layers or {}).values()]:
        if bits not in BITS:
            raise UsageError(f"weights have {', '.join(map(str, BITS))} bits, not {bits}")
    if (mean is None) != (std is None):
        raise UsageError("`mean` and `std` belong together; give both or neither")
    pixels = None if mean is None or std is None else (float(mean), float(std))
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if hasattr(calib, "keys") and not is_array(calib):
        optional = [p.name for p in parameters if p.default is not p.empty]
        names += [name for name in optional if name in calib or f"in_{name}" in calib]
    samples = _collected(calib, names, calib_samples)
    real = [_as_real(value, pixels, name) for name, value in samples.items()]
    # Two at least: a size of 1 would be taken for a constant.
    examples = tuple(torch.cat([value, value])[:3] if len(value) < 3 else value[:3] for value in real)
    gm = _capture(module, names, examples)
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    floats = {p.name for p, value in zip(placeholders, examples) if value.is_floating_point()}
    plan = Plan(gm, floats)
    outputs = next(node for node in gm.graph.nodes if node.op == "output").args[0]
    shown = [n for n in outputs if isinstance(n, Node)]
    output_names = ["output"] if len(shown) == 1 else [f"output{i}" for i in range(len(shown))]
    prepared = QuantizedModule(
        gm, plan, names, output_names, tuple(value[:1] for value in examples), weights, layers or {}, pixels, wide_exp
    )
    prepared.calibrate(dict(zip(names, real)))
    return prepared


def _as_real(value: Tensor, pixels: Optional[tuple[float, float]], name: str) -> Tensor:
    if value.dtype == torch.uint8 and pixels is None:
        raise UsageError(f"`{name}` has raw pixels; give `mean` and `std` of the normalization, or floats")
    if value.dtype == torch.uint8 and pixels is not None:
        return (value.to(torch.float32) / 255 - pixels[0]) / pixels[1]
    return value.to(torch.float32) if value.is_floating_point() else value


def _capture(module: nn.Module, names: list[str], examples: tuple[Tensor, ...]) -> GraphModule:
    """The graph of ``module`` for any number of samples."""
    was_training = module.training
    module.eval()
    dim = torch.export.Dim.AUTO
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                module, (), dict(zip(names, examples)), dynamic_shapes={name: {0: dim} for name in names}, strict=False
            )
            captured = program.module()
    except Exception as error:
        text = str(error).strip().splitlines()
        raise ConversionError(
            f"the module cannot be captured by torch.export ({type(error).__name__}: {text[0] if text else ''}); "
            "its control flow must not depend on the values of tensors"
        ) from error
    finally:
        module.train(was_training)
    assert isinstance(captured, GraphModule)
    more = [torch.cat([value, value]) for value in examples]
    fixed = [n.name for n in captured.graph.nodes if n.op == "placeholder" and isinstance(n.meta["val"].shape[0], int)]
    try:
        with torch.no_grad():
            captured(**dict(zip(names, more)))
    except Exception:
        fixed = fixed or names[:1]
    if fixed:
        raise ConversionError(
            f"the module fixes the number of samples of `{fixed[0]}`; take it from the shape of the input: x.shape[0]"
        )
    return captured
