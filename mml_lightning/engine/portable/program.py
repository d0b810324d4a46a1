"""`infer.py`, the program that stands beside an exported network: put together for its runtime and its source."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mml_lightning.utils.templates import FOLDER as TEMPLATES

FILE = "infer.py"
NEEDS = {"onnx": ["onnxruntime"], "torch": ["torch"], "safetensors": ["torch", "mml_lightning"]}
EXAMPLE = {"frames": "clip.mp4", "flow": "flow.npy"}
_OF_MODULE = '''

def network(clips):
    """uint8 clips -> logits [clips, classes] of each head."""
    with torch.no_grad():
        return [one.numpy() for one in MODULE(torch.from_numpy(clips))]
'''
LOAD = {
    "onnx": '''MODEL = HERE / ("model_int8.onnx" if __name__ == "__main__" and "--int8" in sys.argv else "model.onnx")
SESSION = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])


def network(clips):
    """uint8 clips -> logits [clips, classes] of each head."""
    return SESSION.run(None, {"clip": clips})
''',
    "torch": f'MODULE = torch.export.load(HERE / "model.pt2").module()\n{_OF_MODULE}',
    "safetensors": f"MODULE = rebuilt(HERE)\n{_OF_MODULE}",
}
_RUNTIME = {
    "onnx": "import onnxruntime",
    "torch": "import torch",
    "safetensors": "import torch\n\nfrom mml_lightning.engine.portable.network import rebuilt",
}


def infer(form: str, source: str) -> str:
    """The program of a network of `form` that looks at `source`: "frames" or "flow"."""
    needs = ["numpy", *(["PyAV"] if source == "frames" else []), *NEEDS[form]]
    imports = [*(["import av"] if source == "frames" else []), "import numpy as np", _RUNTIME[form]]
    words = {
        "EXAMPLE": EXAMPLE[source],
        "NEEDS": f"{', '.join(needs[:-1])} and {needs[-1]}",
        "IMPORTS": "\n".join(imports),
        "LOAD": LOAD[form],
        "READ": _template(f"read_{source}"),
    }
    text = _template("infer")
    for name, value in words.items():
        text = text.replace(f"@@{name}@@", value)
    return text


def _template(name: str) -> str:
    return (TEMPLATES / "portable" / f"{name}.txt").read_text(encoding="utf-8")


def load(path: Path) -> ModuleType:
    """`infer.py` as a module; it leaves nothing behind."""
    spec = importlib.util.spec_from_file_location("mml_portable_infer", path)
    assert spec is not None and spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
