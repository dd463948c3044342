"""Write the single-node cases of the ONNX standard as NAME.onnx and NAME.npz.

    pip install onnx==1.23.2 numpy
    python scripts/export_onnx_nodes.py FOLDER
    SHIFTFORMER_ONNX_NODES=FOLDER cargo test -p shiftformer-tests --release --test suite onnx_node

Operands that a converter must know (shapes, axes, weights, scales) become initializers; the first operand, and all
operands of arithmetic, stay inputs. Opsets behind 25 are lowered to 25: the cases there repeat older semantics.
"""

import argparse
import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

NEWEST_OPSET = 25
ARITHMETIC = set("Add Attention Concat Div Einsum Equal Gemm Greater Less MatMul Max Mean Min Mul Pow Sub Sum Where".split())


def export(case, folder: Path) -> bool:
    """Writes one case; false where its operands are no plain tensors."""
    inputs, outputs = case.data_sets[0]
    if not all(hasattr(a, "dtype") for a in [*inputs, *outputs]):
        return False
    model = copy.deepcopy(case.model)
    arithmetic = model.graph.node[0].op_type in ARITHMETIC
    kept, arrays = [], {}
    for index, (declared, array) in enumerate(zip(case.model.graph.input, inputs)):
        array = np.asarray(array)
        if index == 0 or (arithmetic and array.dtype == np.float32 and index < 4):
            kept.append(declared)
            arrays[f"in_{declared.name}"] = array[None]
        else:
            model.graph.initializer.append(numpy_helper.from_array(array, declared.name))
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for declared, array in zip(model.graph.output, outputs):
        arrays[f"out_{declared.name}"] = np.asarray(array)[None]
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, NEWEST_OPSET)
    # Raw u8 is taken for pixels.
    wide = (np.int8, np.uint8, np.uint16, np.uint32, np.uint64)
    arrays = {name: a.astype(np.int64) if a.dtype in wide else a for name, a in arrays.items()}
    np.savez(folder / f"{case.name}.npz", **arrays)
    onnx.save(model, str(folder / f"{case.name}.onnx"))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    # The cases divide by zero and overflow on purpose.
    warnings.simplefilter("ignore")
    cases = collect_testcases(None)
    print(f"{sum(export(case, folder) for case in cases)} of {len(cases)} cases written")


if __name__ == "__main__":
    main()
