"""What every operation of a captured module becomes, and which values are rounded to 8 or 16 bits.

The plan follows the lowering of ``tools/convert``: products read 8 bits, residual streams, normalizations and outputs have 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch.fx import GraphModule, Node

from .._errors import ConversionError

aten: Any = torch.ops.aten

#: Movements: the same integers elsewhere.
MOVES = {
    aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.t.default,
    aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.select.int, aten.slice.Tensor, aten.expand.default, aten.unbind.int, aten.split.Tensor,
    aten.split_with_sizes.default, aten.chunk.default, aten._unsafe_view.default, aten.movedim.int,
    aten.swapaxes.default, aten.numpy_T.default,
}  # fmt: skip
#: Operations that return their argument.
SAME = {
    aten.dropout.default, aten.dropout_.default, aten.contiguous.default, aten.clone.default, aten.alias.default,
    aten.to.dtype, aten._to_copy.default, aten.detach.default, aten.feature_dropout.default, aten.to.dtype_layout,
}  # fmt: skip
TABLES = {
    aten.gelu.default: "gelu", aten.relu.default: "relu", aten.relu_.default: "relu", aten.silu.default: "silu",
    aten.silu_.default: "silu", aten.sigmoid.default: "sigmoid", aten.tanh.default: "tanh",
}  # fmt: skip
SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar}
QUOTIENTS = {aten.div.Tensor, aten.div_.Tensor, aten.div.Scalar}
MATMULS = {aten.matmul.default, aten.mm.default, aten.bmm.default}
SOFTMAX = {aten.softmax.int, aten._softmax.default}

#: What else there is, and what to do about it.
HINTS = {
    aten.batch_norm.default: "fold it into the convolution before: torch.nn.utils.fuse_conv_bn_eval",
    aten._native_batch_norm_legit_no_training.default: "fold it into the convolution before it",
    aten.softmax.int: "a softmax outside of attention: leave it out of the module, the loss takes the logits",
    aten.log_softmax.int: "leave it out of the module, the loss takes the logits",
}


@dataclass
class Step:
    """An operation as the runtime has it.

    Attributes:
        kind: ``input``, ``linear``, ``conv``, ``norm``, ``table``, ``sum``, ``product``, ``mean``, ``embedding``,
            ``attention``, ``join``: these make new integers; ``move``, ``same``, ``scale`` do not.
        inputs: The computed operands.
        info: Further operands, nodes or numbers.
        residual: Of a ``sum``: the layer that is computed together with it.
    """

    kind: str
    inputs: list[Node]
    info: dict[str, Any] = field(default_factory=dict)
    residual: Optional[Node] = None


MAKERS = {"input", "linear", "conv", "norm", "table", "sum", "product", "mean", "embedding", "attention", "join"}


def where(node: Node) -> str:
    """The place of ``node`` in the module, for people."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]).replace("L['self']", "").lstrip(".") for entry in stack.values()]
    return next((path for path in reversed(paths) if path and not path.startswith("_")), "the module")


def refuse(node: Node, why: str) -> ConversionError:
    return ConversionError(f"`{node.target}` in `{where(node)}` cannot be prepared: {why}")


class Plan:
    """Steps by node, absorbed nodes left out, and the bits in which each value is read."""

    def __init__(self, gm: GraphModule, float_inputs: set[str]) -> None:
        self.gm = gm
        self.nodes: list[Node] = list(gm.graph.nodes)
        self.steps: dict[Node, Step] = {}
        #: Nodes computed as a part of another one.
        self.absorbed: set[Node] = set()
        self.active: set[Node] = set()
        self._find_active(float_inputs)
        for node in self.nodes:
            if node.op == "call_function" and node.target in SOFTMAX and node in self.active:
                self._attention(node)
        for node in self.nodes:
            if node in self.active and node not in self.absorbed and node not in self.steps and node.op != "output":
                self.steps[node] = self._step(node)
        self._join_biases()
        for node in self.nodes:
            if node in self.steps and self.steps[node].kind == "sum":
                self._residual(node)
        self.demand: dict[Node, set[str]] = {node: set() for node in self.nodes}
        #: Whether the value has to be had in 16 bits.
        self.streams: set[Node] = set()
        self._spread()

    # -- what is computed ----------------------------------------------------------------------------------------------

    def _find_active(self, float_inputs: set[str]) -> None:
        from_input: set[Node] = set()
        for node in self.nodes:
            if node.op == "call_module":
                continue  # Checks of the shapes of inputs.
            above = [n for n in node.all_input_nodes if n.op != "get_attr"]
            if node.op == "placeholder" or any(n in from_input for n in above):
                from_input.add(node)
            if node.op == "placeholder":
                if node.name in float_inputs:
                    self.active.add(node)
            elif node.op == "call_function" and node.target is aten.embedding.default:
                ids = node.args[1]
                if isinstance(ids, Node) and ids in from_input and self._is_tensor(ids):
                    self.active.add(node)
            elif node.op != "get_attr" and any(n in self.active for n in above) and self._is_tensor(node):
                self.active.add(node)

    def _is_tensor(self, node: Node) -> bool:
        value = node.meta.get("val")
        return node.op == "get_attr" or isinstance(value, (torch.Tensor, tuple, list))

    def _dtype(self, node: Node) -> Any:
        return getattr(node.meta.get("val"), "dtype", None)

    def shape(self, node: Node) -> list[Any]:
        return list(node.meta["val"].shape)

    def source(self, node: Node) -> Node:
        """What makes the integers that ``node`` moves."""
        while node in self.steps and self.steps[node].kind in ("move", "same"):
            node = self.steps[node].inputs[0]
        return node

    def _step(self, node: Node) -> Step:
        if node.op == "placeholder":
            return Step("input", [])
        target: Any = node.target
        args: Any = node.args
        operands = [a for a in node.all_input_nodes if a in self.active]
        first = operands[0] if operands else node
        if target in MOVES or getattr(target, "__name__", "") == "getitem":
            return Step("move", operands)
        if target in SAME:
            return Step("same", operands)
        if target is aten.linear.default:
            if args[1] in self.active:
                raise refuse(node, "its weights are computed from the inputs")
            return Step("linear", [first], {"weight": args[1], "bias": args[2] if len(args) > 2 else None})
        if target is aten.addmm.default:
            return Step("linear", [args[1]], {"weight": args[2], "bias": args[0], "turned": True})
        if target in MATMULS:
            if len(operands) != 1 or args[0] is not first:
                raise refuse(node, "a product of two computed values that is no attention; write it as "
                             "softmax(q k^T * scale + mask) v, or use F.scaled_dot_product_attention")  # fmt: skip
            return Step("linear", [first], {"weight": args[1], "bias": None, "turned": True})
        if target is aten.conv2d.default:
            names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
            info = dict(zip(names, args))
            if info.get("groups", 1) != 1:
                raise refuse(node, "a convolution in groups; convert such a model without quantization-aware training")
            return Step("conv", [first], {"bias": None, **info})
        if target is aten.layer_norm.default:
            info = dict(zip(["input", "shape", "weight", "bias", "eps"], args))
            if len(info["shape"]) != 1:
                raise refuse(node, "a normalization over several dimensions; use one, the last")
            return Step("norm", [first], {"weight": None, "bias": None, "eps": 1e-5, **info, "rms": False})
        if target is getattr(aten, "rms_norm", aten.layer_norm).default:
            info = dict(zip(["input", "shape", "weight", "eps"], args))
            if len(info["shape"]) != 1 or info.get("eps") is None:
                raise refuse(node, "give nn.RMSNorm one dimension, the last, and an eps")
            return Step("norm", [first], {"weight": None, "bias": None, **info, "rms": True})
        if target in TABLES:
            name = TABLES[target]
            return Step("table", [first], {"name": name + ("_tanh" if node.kwargs.get("approximate") == "tanh" else "")})
        if target in SUMS:
            return self._sum(node, operands)
        if target in PRODUCTS or target in QUOTIENTS:
            return self._product(node, operands)
        if target is aten.mean.dim:
            dims = sorted(d % len(self.shape(first)) for d in args[1])
            return Step("mean", [first], {"dims": tuple(dims), "keep": bool(len(args) > 2 and args[2])})
        if target is aten.embedding.default:
            return Step("embedding", [], {"weight": args[0], "ids": args[1]})
        if target is aten.cat.default:
            parts = list(args[0])
            return Step("join", [p for p in parts if p in self.active], {"parts": parts, "dim": args[1] if len(args) > 1 else 0})
        if target is aten.scaled_dot_product_attention.default:
            return self._sdpa(node)
        raise refuse(node, HINTS.get(target, "it has no integer form here; leave it out of the module that is prepared, "
                                     "or write it with linear layers, norms, activations, sums and attention"))  # fmt: skip

    def _sum(self, node: Node, operands: list[Node]) -> Step:
        args: Any = node.args
        a, b = args[:2]
        if node.kwargs.get("alpha", 1) != 1:
            raise refuse(node, "a sum with `alpha`; multiply the operand instead")
        other = b if a is operands[0] else a
        if not isinstance(other, Node):
            raise refuse(node, "a number is added to a computed value; add it to a bias before")
        sign = -1.0 if node.target is aten.sub.Tensor else 1.0
        if sign < 0 and operands[0] is not a:
            raise refuse(node, "a computed value is subtracted from a constant")
        return Step("sum", operands, {"a": a, "b": b, "sign": sign})

    def _number(self, value: Any) -> Optional[float]:
        """A number, or a constant of one element."""
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, Node) and value not in self.active and not self.from_inputs(value):
            found = value.meta.get("val")
            if isinstance(found, torch.Tensor) and found.numel() == 1 and value.op == "get_attr":
                return float(_attribute(self.gm, str(value.target)))
        return None

    def from_inputs(self, node: Node) -> bool:
        """Whether the values of ``node`` depend on inputs; its size may."""
        if node.op == "placeholder" or not self._is_tensor(node):
            return bool(node.op == "placeholder")
        return any(self.from_inputs(n) for n in node.all_input_nodes)

    def _product(self, node: Node, operands: list[Node]) -> Step:
        args: Any = node.args
        a, b = args[:2]
        quotient = node.target in QUOTIENTS
        number = self._number(b if a is operands[0] else a)
        if number is not None and (a is operands[0] or not quotient):
            by = 1.0 / number if quotient else number
            if not by > 0:
                raise refuse(node, "a factor that is not positive")
            return Step("scale", operands, {"by": by})
        if quotient:
            raise refuse(node, "a division by more than a number")
        return Step("product", operands, {"a": a, "b": b})

    # -- attention -----------------------------------------------------------------------------------------------------

    def _sdpa(self, node: Node) -> Step:
        names = ["q", "k", "v", "mask", "dropout", "causal"]
        info: dict[str, Any] = dict(zip(names, node.args))
        info.update({{"attn_mask": "mask", "is_causal": "causal"}.get(k, k): v for k, v in node.kwargs.items()})
        if info.get("enable_gqa"):
            raise refuse(node, "grouped queries; repeat keys and values: k.repeat_interleave(groups, 1)")
        q, k, v = info["q"], info["k"], info["v"]
        scale = info.get("scale")
        scale = float(self.shape(q)[-1]) ** -0.5 if scale is None else float(scale)
        mask = info.get("mask")
        if mask is not None and mask in self.active:
            raise refuse(node, "a mask computed from floats")
        parts = {"q": q, "k": k, "v": v, "scale": scale, "mask": mask, "causal": bool(info.get("causal")), "turned": False}
        return Step("attention", [q, k, v], parts)

    def _attention(self, node: Node) -> None:
        """softmax(q k * scale + mask) v in separate operations."""
        hint = HINTS[aten.softmax.int]
        at: Any = node.args[0]
        scale, mask, inner = 1.0, None, [node]
        while at.target not in MATMULS:
            if len(at.users) != 1:
                raise refuse(node, "its argument is read twice; " + hint)
            inner.append(at)
            if at.target in SAME:
                at = at.args[0]
                continue
            others = [a for a in at.args[:2] if a not in self.active]
            computed = [a for a in at.args[:2] if a in self.active]
            if len(computed) != 1:
                raise refuse(node, hint)
            if at.target in PRODUCTS or at.target in QUOTIENTS:
                number = self._number(others[0])
                if number is None or mask is not None and number != 1.0:
                    raise refuse(at, "scores are to be scaled by a number, before the mask is added")
                scale = scale / number if at.target in QUOTIENTS else scale * number
            elif at.target in SUMS and at.target is not aten.sub.Tensor and mask is None:
                mask = ("add", others[0])
            elif at.target is aten.masked_fill.Scalar and mask is None and at.args[0] in self.active:
                mask = ("fill", at.args[1])
            else:
                raise refuse(at, "between the product and the softmax of an attention there can be a factor and a mask")
            at = computed[0]
        if at.target not in MATMULS or any(a not in self.active for a in at.args[:2]):
            raise refuse(node, hint)
        inner.append(at)
        after: Any = node
        while True:
            users = list(after.users)
            if len(users) != 1:
                raise refuse(node, hint)
            after = users[0]
            if after.target in SAME:
                inner.append(after)
                continue
            break
        if after.target not in MATMULS or after.args[1] not in self.active:
            raise refuse(node, hint)
        self.absorbed.update(inner)
        q, k = at.args[:2]
        v = after.args[1]
        info = {"q": q, "k": k, "v": v, "scale": scale, "causal": False, "turned": True}
        info["mask"] = None if mask is None else mask[1]
        info["fill"] = mask is not None and mask[0] == "fill"
        self.steps[after] = Step("attention", [q, k, v], info)

    # -- what is computed together -------------------------------------------------------------------------------------

    def _join_biases(self) -> None:
        """A vector added behind a product with weights is its bias."""
        for node in self.nodes:
            step = self.steps.get(node)
            if step is None or step.kind != "sum" or len(step.inputs) != 1 or step.info["sign"] < 0:
                continue
            layer, vector = step.inputs[0], step.info["b"] if step.info["a"] is step.inputs[0] else step.info["a"]
            below = self.steps.get(layer)
            plain = below is not None and below.kind == "linear" and below.info["bias"] is None and len(layer.users) == 1
            if plain and below is not None and len(self.shape(vector)) == 1 and not self.from_inputs(vector):
                below.info["bias"] = vector
                step.kind, step.info = "same", {"joined": True}

    def _residual(self, node: Node) -> None:
        step = self.steps[node]
        if len(step.inputs) != 2 or step.info["sign"] < 0:
            return

        def layer_of(at: Node) -> Optional[Node]:
            while at in self.steps and len(at.users) == 1:
                if self.steps[at].kind == "linear":
                    return at
                if self.steps[at].kind != "same":
                    return None
                at = self.steps[at].inputs[0]
            return None

        same = [self.shape(i)[1:] == self.shape(node)[1:] for i in step.inputs]
        order = self.nodes.index
        layers = [(order(l), l, i) for i in step.inputs if (l := layer_of(i)) is not None]
        if layers and all(same):
            _, layer, operand = max(layers, key=lambda found: found[0])
            step.residual = layer
            stream = step.inputs[0] if operand is step.inputs[1] else step.inputs[1]
            step.info["stream"] = stream
            at = operand
            while at is not layer:
                self.absorbed.add(at)
                at = self.steps[at].inputs[0]
            self.absorbed.add(layer)

    # -- which bits are asked for --------------------------------------------------------------------------------------

    def _spread(self) -> None:
        def ask(node: Any, what: set[str]) -> None:
            if isinstance(node, Node) and node in self.active:
                self.demand[node] |= what

        for node in reversed(self.nodes):
            if node.op == "output":
                for n in node.all_input_nodes:
                    ask(n, {"wide"})
                continue
            step = self.steps.get(node)
            if step is None:
                continue
            own = self.demand[node]
            if step.kind in ("move", "same"):
                ask(step.inputs[0], own)
                if node in self.streams:
                    self.streams.add(step.inputs[0])
            elif step.kind == "scale":
                if node in self.streams:
                    raise refuse(node, "a factor on a residual stream; multiply the weights before it instead")
                ask(step.inputs[0], own if own == {"symmetric"} else {"narrow"})
            elif step.kind in ("linear", "conv", "table"):
                ask(step.inputs[0], {"narrow"})
            elif step.kind == "attention":
                for n in step.inputs:
                    ask(n, {"symmetric"})
            elif step.residual is not None:
                ask(step.info["stream"], {"wide"})
                self.streams.add(step.info["stream"])
            else:
                for n in step.inputs:
                    ask(n, {"wide"})
                    if step.kind == "join":
                        self.streams.add(n)

    def bits(self, node: Node) -> tuple[bool, bool, bool]:
        """Whether a value is rounded to 8 and to 16 bits, and whether 8 bits are symmetric."""
        asked = self.demand[node]
        symmetric = "symmetric" in asked
        narrow = symmetric or "narrow" in asked
        wide = "wide" in asked or not narrow
        kind = self.steps[node].kind
        if kind == "attention":
            return True, node in self.streams, symmetric
        if kind == "embedding":
            # Tables have 8 bits and a scale of their own.
            return False, node in self.streams, symmetric
        if kind == "join":
            return narrow, True, symmetric
        return narrow, wide, symmetric


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module
