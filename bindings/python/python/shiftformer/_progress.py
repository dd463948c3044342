"""Progress: a callback, or a bar of tqdm where it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

#: ``None`` or ``False``: nothing. ``True``: a bar of tqdm where there is tqdm. Else called as ``progress(step, done,
#: total)``: with the name of a step that begins and zeros, or with ``None`` and how many samples of how many are done.
Progress = Union[None, bool, Callable[[Optional[str], int, int], object]]
Call = Callable[[Optional[str], int, int], object]


@contextlib.contextmanager
def reporting(progress: Progress) -> Iterator[Call | None]:
    if progress is None or progress is False:
        yield None
        return
    if progress is not True:
        yield progress
        return
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        yield None
        return
    bar: Any = tqdm(total=0, leave=False)

    def update(step: str | None, done: int, total: int) -> None:
        if step is not None:
            bar.set_description_str(step)
        else:
            bar.total = total
            bar.update(done - bar.n)
        bar.refresh()

    try:
        yield update
    finally:
        bar.close()
