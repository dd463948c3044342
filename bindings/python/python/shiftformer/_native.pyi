import os
from typing import Callable, Optional, Sequence, final

__all__ = [
    "Converter",
    "FloatModel",
    "Model",
    "backends",
    "convert_options",
    "figures",
    "generate_options",
    "merge",
]

_Path = str | os.PathLike[str]
_Given = tuple[str, str, list[int], bytes]
_Progress = Optional[Callable[[Optional[str], int, int], object]]
_Endpoint = tuple[str, str, list[int], float, float, bool]
_Input = tuple[str, list[int], bool]

def convert_options() -> list[str]: ...
def generate_options() -> list[str]: ...
def backends() -> list[str]: ...
def figures(sums: str) -> str: ...
def merge(parts: Sequence[str]) -> str: ...
@final
class Converter:
    @staticmethod
    def load(arguments: Sequence[str], progress: _Progress = None) -> Converter: ...
    def inputs(self) -> list[_Input]: ...
    def convert(
        self,
        *,
        path: Optional[_Path] = None,
        samples: Optional[list[_Given]] = None,
        sequences: bool = False,
        threads: Optional[int] = None,
        progress: _Progress = None,
    ) -> Model: ...

@final
class FloatModel:
    @staticmethod
    def load(path: _Path, dims: Sequence[str]) -> FloatModel: ...
    def inputs(self) -> list[_Input]: ...

@final
class Model:
    @staticmethod
    def from_bytes(bytes: bytes, name: _Path) -> Model: ...
    @staticmethod
    def read(path: _Path) -> Model: ...
    def to_bytes(self) -> bytes: ...
    def inputs(self) -> list[_Endpoint]: ...
    def outputs(self) -> list[_Endpoint]: ...
    def is_decoder(self) -> bool: ...
    def labels(self, output: int) -> list[str]: ...
    def summary(self) -> str: ...
    def conversion_text(self) -> Optional[str]: ...
    def conversion(self) -> Optional[str]: ...
    def run(
        self,
        samples: list[_Given],
        *,
        raw_inputs: bool,
        raw_outputs: bool,
        backend: str,
        threads: Optional[int] = None,
        progress: _Progress = None,
    ) -> list[bytes]: ...
    def evaluate(
        self,
        *,
        path: Optional[_Path] = None,
        samples: Optional[list[_Given]] = None,
        float_model: Optional[FloatModel] = None,
        start: int = 0,
        end: Optional[int] = None,
        backend: str,
        threads: Optional[int] = None,
        progress: _Progress = None,
    ) -> str: ...
    def edges(self, sums: str) -> list[str]: ...
    def evaluate_sequences(
        self,
        *,
        path: Optional[_Path] = None,
        samples: Optional[list[_Given]] = None,
        limit: Optional[int] = None,
        backend: str,
        threads: Optional[int] = None,
        progress: _Progress = None,
    ) -> str: ...
    def per_op(
        self,
        *,
        path: Optional[_Path] = None,
        samples: Optional[list[_Given]] = None,
        float_model: Optional[FloatModel] = None,
        limit: int,
        threads: Optional[int] = None,
        progress: _Progress = None,
    ) -> str: ...
    def report(self) -> str: ...
    def fit(self, board: Optional[str], count: bool) -> str: ...
    def codegen(self, lang: str, path: _Path, folder: _Path, include: Optional[str]) -> str: ...
    def generate(self, arguments: Sequence[str], progress: _Progress = None) -> str: ...
