"""Make ``import torchvision`` work beside a CPU-only torch.

The torchvision wheel on the package index is linked against CUDA. Beside a torch built without CUDA its ``_C.so``
cannot be loaded, the operators it would define do not exist, and torchvision's own import fails with ``operator
torchvision::nms does not exist``, which takes open_clip, timm and transformers down with it. The guard declares those
operators (their schemas only) just before torchvision runs. With a CUDA torch, or wherever ``_C.so`` loads, it does
nothing.

What stays out of reach on such a machine: ``torchvision.ops.nms`` and torchvision's own JPEG coder.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

GUARDED_PACKAGE = "torchvision"

# torchvision registers a fake kernel for these two while it is being imported; without a schema that raises.
MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# torch drops a library's operators when the library object dies, so it has to live as long as the process.
_declared: list[Any] = []


def install_torchvision_guard() -> None:
    """Put the guard before the import system's own finders; a second call changes nothing.

    Neither torch nor torchvision is imported by this.
    """
    if GUARDED_PACKAGE in sys.modules or any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, TorchvisionFinder())


class TorchvisionFinder:
    """A meta-path finder that answers for ``torchvision`` alone, with a loader that prepares torch first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != GUARDED_PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        # Looking a package up must stay cheap (transformers looks to see what is installed): only the loader changes.
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = GuardedLoader(spec.loader.name, spec.loader.path)
        return spec


class GuardedLoader(SourceFileLoader):
    """Loads torchvision from its source after declaring the operators its compiled half fails to bring."""

    def exec_module(self, module: ModuleType) -> None:
        if not has_compiled_operators(Path(self.path).parent):
            declare_missing_operators()
        super().exec_module(module)


def has_compiled_operators(package: Path) -> bool:
    """Whether torchvision's own extension in folder ``package`` will bring the operators."""
    torch = importlib.import_module("torch")
    # A torch with CUDA and the wheel of PyPI fit: nothing to try, and nothing to hide if they do not.
    if torch.version.cuda is not None:
        return True
    for suffix in EXTENSION_SUFFIXES:
        if (extension := package / f"_C{suffix}").is_file():
            return _loads(extension)
    return False


def _loads(extension: Path) -> bool:
    import ctypes

    try:
        ctypes.CDLL(str(extension))
    except OSError:
        return False
    return True


def declare_missing_operators() -> None:
    """Declare the schemas of the operators; a process that has them already (from another such guard) is left alone."""
    torch = importlib.import_module("torch")
    library = torch.library.Library(GUARDED_PACKAGE, "FRAGMENT")
    for schema in MISSING_OPERATORS:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
