"""A prepared module as an ONNX model in QDQ form."""

from __future__ import annotations

import operator
import os
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from .._errors import ConversionError, FileError
from ._grids import Quantizer, WeightQuantizer
from ._module import Path, QuantizedModule, conv_pads, mask_of
from ._plan import MAKERS, Step, aten, refuse

OPSET, IR_VERSION = 21, 10
FUNCTIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
#: Masks that are computed from inputs: operations and their ONNX names.
LOGIC = {
    aten.eq.Scalar: "Equal", aten.eq.Tensor: "Equal", aten.gt.Scalar: "Greater", aten.gt.Tensor: "Greater",
    aten.lt.Scalar: "Less", aten.lt.Tensor: "Less", aten.ge.Scalar: "GreaterOrEqual", aten.ge.Tensor: "GreaterOrEqual",
    aten.le.Scalar: "LessOrEqual", aten.le.Tensor: "LessOrEqual", aten.logical_and.default: "And",
    aten.bitwise_and.Tensor: "And", aten.logical_or.default: "Or", aten.bitwise_or.Tensor: "Or",
    aten.logical_not.default: "Not", aten.bitwise_not.default: "Not", aten.mul.Tensor: "Mul", aten.add.Tensor: "Add",
    aten.sub.Tensor: "Sub", aten.mul.Scalar: "Mul", aten.add.Scalar: "Add", aten.sub.Scalar: "Sub",
}  # fmt: skip


class _Values(Interpreter):
    """Values of all nodes for one sample."""

    def __init__(self, module: QuantizedModule) -> None:
        super().__init__(module._graph[0])
        self.values: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        self.values[n] = None if n.op == "call_module" else super().run_node(n)
        return self.values[n]


class _Writer:
    def __init__(self, module: QuantizedModule, onnx: Any) -> None:
        self.module, self.plan, self.onnx = module, module._plan, onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: set[str] = set()
        #: Names of tensors by node: the value with 16 bits, or 8 where there are no others, and that with 8.
        self.wide: dict[Node, str] = {}
        self.narrow: dict[Node, str] = {}
        values = _Values(module)
        with torch.no_grad():
            values.run(*module._examples)
        self.values = values.values
        self.outputs: dict[Node, str] = {}

    # -- pieces --------------------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}.{count}"
        self.names.add(unique)
        return unique

    def node(self, op: str, inputs: list[str], name: str, /, output: Optional[str] = None, **attributes: Any) -> str:
        output = output or self.fresh(name)
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        name = self.fresh(name)
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def shape(self, node: Node) -> list[int]:
        return [int(d) for d in self.values[node].shape]

    def pair(self, x: str, quantizer: Quantizer, output: Optional[str] = None) -> str:
        """QuantizeLinear and DequantizeLinear."""
        with torch.no_grad():
            scale = np.float32(quantizer.scale().detach().cpu())
        kind = np.int8 if quantizer.bits == 8 else np.int16
        own = self.constant(f"{x}/scale{quantizer.bits}", scale)
        zero = self.constant(f"{x}/zero{quantizer.bits}", np.asarray(int(quantizer.zero), kind))
        q = self.node("QuantizeLinear", [x, own, zero], f"{x}/quantized{quantizer.bits}")
        return self.node("DequantizeLinear", [q, own, zero], f"{x}/rounded{quantizer.bits}", output)

    def made(self, node: Node, x: str) -> None:
        """Names the value of a step, behind its pairs."""
        wide, narrow = self.module._find(node, 16), self.module._find(node, 8)
        if narrow is not None and self.plan.steps[node].kind == "attention":
            self.narrow[node] = self.wide[node] = self.pair(x, narrow)
            if wide is not None:
                self.wide[node] = self.pair(self.narrow[node], wide)
            return
        if wide is not None:
            x = self.pair(x, wide, None if narrow is not None else self.outputs.get(node))
        if narrow is not None:
            self.narrow[node] = self.pair(x, narrow)
        self.wide[node] = x if wide is not None or narrow is None else self.narrow[node]

    def any(self, node: Any) -> str:
        return self.wide[node]

    def eight(self, node: Any) -> str:
        return self.narrow.get(node, self.wide[node])

    def plain(self, node: Any, name: str) -> str:
        """A constant, or a value computed from integer inputs alone."""
        if not isinstance(node, Node):
            return self.constant(name, np.asarray(node, np.float32))
        if node in self.wide:
            return self.wide[node]
        if not self.plan.from_inputs(node):
            value = self.values[node]
            value = value.to(torch.float32) if value.is_floating_point() else value
            self.wide[node] = self.constant(str(node.target) if node.op == "get_attr" else node.name, value)
            return self.wide[node]
        self.wide[node] = self._computed(node)
        return self.wide[node]

    def _computed(self, node: Node) -> str:
        target, shape = node.target, self.constant(f"{node.name}/shape", np.asarray(self.shape(node), np.int64))
        if target in LOGIC:
            dtypes = [self.values[a].dtype for a in node.args[:2] if isinstance(a, Node)]
            kind = torch.empty(0, dtype=dtypes[0]).numpy().dtype
            operands = [
                self.plain(a, node.name) if isinstance(a, Node) else self.constant(f"{node.name}/number", np.asarray(a, kind))
                for a in node.args[:2]
            ]
            return self.node(LOGIC[target], operands, node.name)
        first: Any = node.args[0] if node.args else None
        if target is aten.rsub.Scalar:
            number = self.constant(f"{node.name}/number", np.asarray(node.args[1], self.values[first].cpu().numpy().dtype))
            return self.node("Sub", [number, self.plain(first, node.name)], node.name)
        if target is aten.where.self:
            return self.node("Where", [self.plain(a, node.name) for a in node.args], node.name)
        if target in (aten.to.dtype, aten._to_copy.default):
            kind = self.onnx.helper.np_dtype_to_tensor_dtype(self.values[node].cpu().numpy().dtype)
            return self.node("Cast", [self.plain(first, node.name)], node.name, to=kind)
        if target in (aten.unsqueeze.default, aten.view.default, aten.reshape.default, aten.slice.Tensor, aten.clone.default):
            same = self.values[node].numel() == self.values[first].numel()
            if same:
                return self.node("Reshape", [self.plain(first, node.name), shape], node.name)
        if target is aten.expand.default:
            return self.node("Expand", [self.plain(first, node.name), shape], node.name)
        raise refuse(node, "it is computed from an integer input in a way that is not exported")

    # -- steps ---------------------------------------------------------------------------------------------------------

    def write(self) -> Any:
        module, helper = self.module, self.onnx.helper
        ends: Any = next(node for node in self.plan.nodes if node.op == "output").args[0]
        ends = [node for node in ends if isinstance(node, Node)]
        for name, end in zip(module.output_names, ends):
            source = self.plan.source(end)
            if source is end and self.plan.steps[source].kind in MAKERS and module._find(source, 8) is None:
                self.outputs[source] = self.fresh(name)
        inputs, names = [], iter(module.input_names)
        for node in self.plan.nodes:
            if node.op == "placeholder":
                name = self.fresh(next(names))
                array = self.values[node].cpu().numpy()
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
                self.wide[node] = name
                if node in self.plan.active:
                    self.made(node, name)
            elif node in self.plan.steps and node not in self.plan.absorbed:
                self.step(node, self.plan.steps[node])
        outputs = []
        for name, end in zip(module.output_names, ends):
            if self.wide[end] != name:
                self.node("Identity", [self.any(end)], name, name)
            outputs.append(helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, self.shape(end)))
        graph = helper.make_graph(self.nodes, "shiftformer.torch", inputs, outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "shiftformer.torch"
        self.onnx.checker.check_model(model)
        return model

    def step(self, node: Node, step: Step) -> None:
        kind, info, name = step.kind, step.info, node.name
        if kind == "same":
            self._pass(node, step.inputs[0], lambda x: x)
        elif kind == "move":
            self._move(node)
        elif kind == "scale":
            by = self.constant(f"{name}/factor", np.float32(info["by"]))
            self._pass(node, step.inputs[0], lambda x: self.node("Mul", [x, by], name))
        elif kind == "linear":
            self.made(node, self._linear(node))
        elif kind == "conv":
            self.made(node, self._conv(node, step))
        elif kind == "norm":
            self.made(node, self._norm(node, step))
        elif kind == "table":
            self.made(node, self._table(node, step))
        elif kind == "mean":
            axes = self.constant(f"{name}/axes", np.asarray(info["dims"], np.int64))
            x = self.any(step.inputs[0])
            self.made(node, self.node("ReduceMean", [x, axes], name, keepdims=int(info["keep"])))
        elif kind == "embedding":
            table = self.plain(info["weight"], name)
            self.made(node, self.node("Gather", [table, self.plain(info["ids"], name)], name, axis=0))
        elif kind == "attention":
            self.made(node, self._attention(node, step))
        elif kind == "join":
            parts = [self.any(p) if p in self.plan.active else self.plain(p, name) for p in info["parts"]]
            self.made(node, self.node("Concat", parts, name, axis=info["dim"]))
        elif kind == "sum" and step.residual is not None:
            layer = self._linear(step.residual)
            self.made(node, self.node("Add", [self.any(info["stream"]), layer], name))
        else:
            operands = [self.any(p) if p in self.plan.active else self.plain(p, name) for p in (info["a"], info["b"])]
            op = "Mul" if kind == "product" else "Add" if info["sign"] > 0 else "Sub"
            self.made(node, self.node(op, operands, name))

    def _pass(self, node: Node, source: Node, move: Any) -> None:
        """The same movement of both forms."""
        self.wide[node] = move(self.wide[source])
        if source in self.narrow:
            same = self.narrow[source] == self.wide[source]
            self.narrow[node] = self.wide[node] if same else move(self.narrow[source])

    def _move(self, node: Node) -> None:
        source: Any = node.args[0]
        value = self.values[node]
        if isinstance(value, (tuple, list)):
            return  # Taken apart by those that read it.
        target: Any = node.target
        if target is operator.getitem:
            index: Any = node.args[1]
            apart: Any = source
            source = apart.args[0]
            self._take(node, source, self._part(apart, index))
            return
        if target in (aten.permute.default, aten.transpose.int, aten.t.default, aten.movedim.int, aten.swapaxes.default,
                      aten.numpy_T.default):  # fmt: skip
            rank = self.values[source].dim()
            # Where every dimension goes, by moving a tensor whose sizes are their numbers.
            probe = torch.empty([d + 2 for d in range(rank)], device="meta")
            moved = target(probe, *node.args[1:], **node.kwargs)
            perm = [int(s) - 2 for s in moved.shape]
            self._pass(node, source, lambda x: self.node("Transpose", [x], node.name, perm=perm))
            return
        if target is aten.expand.default:
            shape = self.constant(f"{node.name}/shape", np.asarray(self.shape(node), np.int64))
            self._pass(node, source, lambda x: self.node("Expand", [x, shape], node.name))
            return
        if target is aten.select.int:
            args: Any = node.args
            _, dim, index = args
            dim = int(dim) % self.values[source].dim()
            index = int(index) % self.values[source].shape[dim]
            self._take(node, source, (dim, index, index + 1, 1))
            return
        if target is aten.slice.Tensor:
            size = self.values[source]
            given: list[Any] = [self.values[a] if isinstance(a, Node) else a for a in node.args[1:]]
            given += [0, None, None, 1][len(given) :]
            dim = int(given[0]) % size.dim()
            start, end, step = slice(*given[1:]).indices(size.shape[dim])
            self._take(node, source, (dim, start, end, step))
            return
        self._pass(node, source, lambda x: self._reshape(x, self.shape(node), node.name))

    def _reshape(self, x: str, shape: list[int], name: str) -> str:
        return self.node("Reshape", [x, self.constant(f"{name}/shape", np.asarray(shape, np.int64))], name)

    def _part(self, apart: Node, index: int) -> tuple[int, int, int, int]:
        """Dimension, start, end and step of part ``index`` of what is taken apart."""
        parts = self.values[apart]
        whole: Any = apart.args[0]
        rank = self.values[whole].dim()
        args: Any = apart.args
        index %= len(parts)
        if apart.target is aten.unbind.int:
            dim = int(args[1]) % rank if len(args) > 1 else 0
            return dim, index, index + 1, 1
        dim = int(args[2]) % rank if len(args) > 2 else 0
        start = sum(int(p.shape[dim]) for p in parts[:index])
        return dim, start, start + int(parts[index].shape[dim]), 1

    def _take(self, node: Node, source: Node, part: tuple[int, int, int, int]) -> None:
        dim, start, end, step = part
        name = node.name
        bounds = [self.constant(f"{name}/{what}", np.asarray([v], np.int64)) for what, v in
                  (("start", start), ("end", end), ("axis", dim), ("step", step))]  # fmt: skip

        def move(x: str) -> str:
            taken = self.node("Slice", [x, *bounds], f"{name}/slice")
            return self._reshape(taken, self.shape(node), name)

        self._pass(node, source, move)

    def _weights(self, node: Node, turned: bool) -> str:
        """Integers and their scales, one per output channel, which is the first dimension unless ``turned``."""
        step, helper = self.plan.steps[node], self.onnx.helper
        quantizer = self.module.weight_quantizers[node.name]
        assert isinstance(quantizer, WeightQuantizer)
        with torch.no_grad():
            weight = self.module._value_of(step.info["weight"])
            weight = weight.t() if step.info.get("turned") else weight
            q, scale = quantizer(weight)
        steps = q.cpu().numpy().astype(np.int8)
        steps = np.ascontiguousarray(steps.T if turned else steps)
        name = self.module.layer_name(node) + ".weight"
        small = quantizer.bits <= 4
        kind = self.onnx.TensorProto.INT4 if small else self.onnx.TensorProto.INT8
        stored, zeros = self.fresh(f"{name}/integers"), self.fresh(f"{name}/zeros")
        if small:
            self.initializers.append(helper.make_tensor(stored, kind, steps.shape, steps.flatten().tolist()))
        else:
            self.initializers.append(self.onnx.numpy_helper.from_array(steps, stored))
        self.initializers.append(helper.make_tensor(zeros, kind, [len(scale)], [0] * len(scale)))
        own = self.constant(f"{name}/scales", scale.detach().cpu().numpy().astype(np.float32))
        return self.node("DequantizeLinear", [stored, own, zeros], name, axis=1 if turned else 0)

    def _linear(self, node: Node) -> str:
        step = self.plan.steps[node]
        name = self.module.layer_name(node)
        y = self.node("MatMul", [self.eight(step.inputs[0]), self._weights(node, True)], f"{name}/product")
        bias = step.info["bias"]
        if bias is None:
            return y
        return self.node("Add", [y, self.plain(bias, f"{name}.bias")], name)

    def _conv(self, node: Node, step: Step) -> str:
        info = step.info
        stride, dilation = info.get("stride") or [1, 1], info.get("dilation") or [1, 1]
        size = self.shape(step.inputs[0])[2:]
        before, after = conv_pads(info, size, stride, dilation)
        inputs = [self.eight(step.inputs[0]), self._weights(node, False)]
        if info["bias"] is not None:
            inputs.append(self.plain(info["bias"], node.name))
        return self.node("Conv", inputs, self.module.layer_name(node), strides=list(stride), dilations=list(dilation),
                         pads=[*before, *after])  # fmt: skip

    def _norm(self, node: Node, step: Step) -> str:
        info, x = step.info, self.any(step.inputs[0])
        n = self.shape(node)[-1]
        gamma = self.constant(f"{node.name}/ones", np.ones(n, np.float32)) if info["weight"] is None else None
        gamma = gamma or self.plain(info["weight"], node.name)
        if not info["rms"]:
            inputs = [x, gamma] + ([] if info["bias"] is None else [self.plain(info["bias"], node.name)])
            return self.node("LayerNormalization", inputs, node.name, axis=-1, epsilon=float(info["eps"]))
        axis = self.constant(f"{node.name}/axis", np.asarray([-1], np.int64))
        two = self.constant(f"{node.name}/two", np.float32(2))
        eps = self.constant(f"{node.name}/eps", np.float32(info["eps"]))
        square = self.node("Pow", [x, two], f"{node.name}/square")
        mean = self.node("ReduceMean", [square, axis], f"{node.name}/mean", keepdims=1)
        root = self.node("Sqrt", [self.node("Add", [mean, eps], f"{node.name}/sum")], f"{node.name}/root")
        return self.node("Mul", [self.node("Div", [x, root], f"{node.name}/normal"), gamma], node.name)

    def _table(self, node: Node, step: Step) -> str:
        x, name = self.eight(step.inputs[0]), step.info["name"]
        if name.startswith("gelu"):
            return self.node("Gelu", [x], node.name, approximate="tanh" if name == "gelu_tanh" else "none")
        if name == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{node.name}/sigmoid")], node.name)
        return self.node(FUNCTIONS[name], [x], node.name)

    def _attention(self, node: Node, step: Step) -> str:
        info, name = step.info, node.name
        q, k, v = (self.eight(info[part]) for part in "qkv")
        if not info["turned"]:
            rank = self.values[info["k"]].dim()
            k = self.node("Transpose", [k], f"{name}/keys", perm=[*range(rank - 2), rank - 1, rank - 2])
        scale = self.constant(f"{name}/scale", np.float32(info["scale"]))
        scores = self.node("Mul", [self.node("MatMul", [q, k], f"{name}/dots"), scale], f"{name}/scores")
        mask = self._mask(node, step)
        if mask is not None:
            scores = self.node("Add", [scores, mask], f"{name}/masked")
        shares = self.node("Softmax", [scores], f"{name}/shares", axis=-1)
        return self.node("MatMul", [shares, v], name)

    def _mask(self, node: Node, step: Step) -> Optional[str]:
        info, name = step.info, node.name
        mask = info["mask"]
        if not isinstance(mask, Node) or not self.plan.from_inputs(mask):
            keys = self.values[info["k"]]
            count = keys.shape[-1] if info["turned"] else keys.shape[-2]
            rows = self.values[info["q"]].shape[-2]
            value = mask_of(step, self.values, rows, count, self.values[info["q"]])
            return None if value is None else self.constant(f"{name}/mask", value)
        value = self.values[mask]
        x = self.plain(mask, name)
        if not info.get("fill") and value.dtype != torch.bool:
            return x
        ends = [self.constant(f"{name}/{what}", np.float32(v)) for what, v in (("hidden", -1e9), ("seen", 0.0))]
        return self.node("Where", [x, *(ends if info.get("fill") else ends[::-1])], f"{name}/mask")


def write_onnx(module: QuantizedModule, path: Path) -> None:
    """Writes ``module`` to ``path``."""
    try:
        import onnx
    except ImportError as error:
        raise ConversionError("export needs the package onnx: pip install onnx") from error
    data = _Writer(module, onnx).write().SerializeToString()
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise FileError(f"cannot write {os.fspath(path)}: {error.strerror or error}; choose another path") from error
