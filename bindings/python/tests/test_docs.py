"""The documentation, run: every cell of the tutorial, every block of docs/python.md and docs/qat.md, each in one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(cells: list[str], folder: Path) -> str:
    """Runs the cells one after another in `folder`, which has the models of the repository."""
    shutil.copytree(ROOT / "models/digits", folder / "models/digits")
    shutil.copytree(ROOT / "models/arithmetic", folder / "models/arithmetic")
    # Started anew by workers of executors, it must not run them again.
    lines = ["if __name__ == '__main__':"]
    lines += [f"    exec(compile({cell!r}, 'cell {number}', 'exec'), globals())" for number, cell in enumerate(cells)]
    (folder / "cells.py").write_text("\n".join(lines))
    environment = {**os.environ, "PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: str = "python.md") -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_page_of_the_package(tmp_path):
    cells = [block for block in blocks() if "dask" not in block]
    assert len(cells) >= 5
    assert "SQNR on 128 of 128 calibration samples" in run(cells, tmp_path)


@pytest.mark.torch
def test_the_page_with_dask(tmp_path):
    assert any("dask" in block for block in blocks())
    run([*blocks(), "client.close()"], tmp_path)


@pytest.mark.torch
def test_the_page_of_training(tmp_path):
    assert len(blocks("qat.md")) == 1
    run(blocks("qat.md"), tmp_path)


def test_the_tutorial(tmp_path):
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(sources) >= 8
    printed = run(sources, tmp_path)
    assert "0.9917" in printed and "micro:bit" in printed


def test_the_book_lists_every_page():
    listed = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/SUMMARY.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"SUMMARY.md"}
    assert sorted(listed) == sorted(pages)
    for page in pages:
        text = (ROOT / "docs" / page).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / "docs" / target).exists(), f"{page}: {target}"
        for path, anchor in re.findall(r"{{#include ([^:}]+):([^}]+)}}", text):
            included = (ROOT / "docs" / path).read_text()
            assert f"ANCHOR: {anchor} " in included and f"ANCHOR_END: {anchor} " in included


def test_the_page_of_the_container_is_that_of_the_reader():
    source = (ROOT / "runtime/src/format/mod.rs").read_text().splitlines()
    lines = [line[4:] for line in source if line.startswith("//!")]
    page = (ROOT / "docs/format.md").read_text()
    for line in lines[1:]:
        assert line.lstrip("# ") in page


def test_every_text_of_the_troubleshooting_is_one_of_the_sources():
    sources = [*ROOT.glob("tools/*/src/**/*.rs"), *ROOT.glob("runtime/src/**/*.rs"), *ROOT.glob("bindings/**/*.py")]
    # String literals go over lines.
    whole = re.sub(r"\\\n\s*", "", "\n".join(path.read_text() for path in sources if "tests" not in path.parts))
    texts = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(texts) > 20
    for text in texts:
        for part in text.split(" ... "):
            assert part in whole, text
