"""Results as dataclasses. Fields are those of the command's JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, TypeVar

from . import _native

T = TypeVar("T")


def of(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass from JSON; what it does not know is left out."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in fields.items() if name in known})


@dataclass(frozen=True)
class Endpoint:
    """An input or output.

    Attributes:
        name: Name in the source model.
        dtype: Element type of the integers, as numpy calls it.
        shape: Dimensions in the source model.
        scale: Real units of one step: ``real = scale * (q - zero)``.
        zero: The integer that stands for 0.
        takes_pixels: Raw ``uint8`` pixels are taken as they are and normalized inside the model.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero: float
    takes_pixels: bool = False


@dataclass(frozen=True)
class Operand:
    """A tensor as an operator sees it."""

    name: str
    dtype: str
    shape: list[int]
    constant: bool = False


@dataclass(frozen=True)
class Operator:
    """An operator, with its proven bounds in bits (0 where there is none)."""

    index: int
    name: str
    kind: str
    macs: int
    inputs: list[Operand]
    output: Optional[Operand]
    acc_bits: int
    product_bits: int
    wide_bits: int
    sum_bits: int
    scratch_bytes: int
    block_rows: Optional[int] = None


@dataclass(frozen=True)
class State:
    """What a decoder keeps from one run to the next."""

    bytes: int
    positions: int
    rows: int


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer of a language model."""

    tokens: int
    bytes: int
    valid: bool


@dataclass(frozen=True)
class Summary:
    """What a model holds: sizes in bytes, operators in the order of execution."""

    format_version: str
    profile: str
    source: str
    params: int
    weight_bytes: int
    file_bytes: int
    flash_bytes: int
    arena_bytes: int
    arena_lower_bound_bytes: int
    macs: int
    receipts: int
    inputs: list[Endpoint]
    outputs: list[Endpoint]
    ops: list[Operator]
    notes: list[str]
    state: Optional[State] = None
    tokenizer: Optional[TokenizerInfo] = None


@dataclass(frozen=True)
class OutputQuality:
    """What an output keeps, in dB."""

    name: str
    sqnr_db: Optional[float]


@dataclass(frozen=True)
class Trial:
    """A choice that was tried."""

    what: str
    choice: str
    sqnr_db: float
    kept: bool


@dataclass(frozen=True)
class Conversion:
    """How a model came about."""

    calibration_samples: int
    sqnr_db: Optional[float]
    outputs: list[OutputQuality]
    trials: list[Trial]
    warnings: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Evaluation:
    """Figures over samples; ``None`` where there were no labels or no reference.

    Attributes:
        samples: Samples evaluated.
        accuracy: Share of labelled rows that the integer model gets right.
        float_accuracy: The same of the reference.
        agreement: Share of rows where both choose the same class.
        sqnr_db: ``10 log10(signal / noise)`` over all outputs and samples.
        cosine: Mean cosine between output and reference.
        sums: The sums behind the figures, as JSON; see :meth:`merge`.
    """

    samples: int
    accuracy: Optional[float]
    float_accuracy: Optional[float]
    agreement: Optional[float]
    sqnr_db: Optional[float]
    cosine: Optional[float]
    sums: str = field(repr=False, compare=False)

    @classmethod
    def of_sums(cls, sums: str) -> Evaluation:
        import json

        return of(cls, {**json.loads(_native.figures(sums)), "sums": sums})

    @classmethod
    def merge(cls, *parts: Evaluation) -> Evaluation:
        """Joins evaluations of disjoint samples: the figures of all at once, to the last bit, whatever the order."""
        return cls.of_sums(_native.merge([part.sums for part in parts]))


@dataclass(frozen=True)
class SequenceEvaluation(Evaluation):
    """Figures of a decoder over sequences of tokens; ``None`` where there was no reference or no tokenizer.

    Attributes:
        samples: Sequences evaluated.
        tokens: Tokens whose logits were computed.
        left_out: Tokens beyond the context.
        agreement: Share of tokens with the same most likely successor as the float model.
        bits_per_token: Mean of ``-log2`` of the probability of the token that follows.
        bits_per_byte: The same bits over the bytes of the text.
    """

    tokens: int
    left_out: int
    bits_per_token: Optional[float]
    float_bits_per_token: Optional[float]
    bits_per_byte: Optional[float]
    float_bits_per_byte: Optional[float]

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> SequenceEvaluation:
        missing = {"accuracy": None, "float_accuracy": None, "cosine": None, "sums": ""}
        return of(cls, {**missing, **fields, "samples": fields["sequences"]})


@dataclass(frozen=True)
class OperatorError:
    """An operator beside the float model: signal to noise in dB, and why it is lost."""

    op: int
    name: str
    kind: str
    dtype: str
    sqnr_db: float
    input_sqnr_db: Optional[float]
    clipped: float
    channel_spread: float
    rounding_share: float
    cause: str
    remedy: str


@dataclass(frozen=True)
class BoardFit:
    """A board beside the model: what is left of flash and RAM in bytes, negative where it is missing."""

    key: str
    name: str
    chip: str
    core: str
    clock_mhz: int
    flash_kib: int
    ram_kib: int
    fits: bool
    flash_left_bytes: int
    ram_left_bytes: int
    instructions: float
    counted: bool
    latency_ms: float
    verdict: str


@dataclass(frozen=True)
class Fit:
    """Boards and what the model needs of them, runtime included."""

    flash_bytes: int
    ram_bytes: int
    basis: str
    boards: list[BoardFit]


@dataclass(frozen=True)
class Generation:
    """What a prompt was continued with."""

    prompt: list[int]
    tokens: list[int]
    text: Optional[str]
    first_token_s: float
    tokens_per_s: Optional[float]
    position: int
    context: int
