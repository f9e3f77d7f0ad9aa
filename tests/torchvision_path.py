"""Makes torchvision importable in the tests: its resizing is pure torch, but no CPU build carries its compiled operators.

The wheel lies beside the virtual environment's packages (`make test` puts it there), so that nothing but the tests
sees it. Importing it registers two operators by name that only the compiled part would define; they are declared here.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "torchvision"
_DECLARED: list[object] = []
"""Keeps the declarations alive: torch drops a library's operators with the object."""


class _Finder(importlib.abc.MetaPathFinder):
    """Declares the operators as torchvision is about to be imported, then lets the ordinary finders find it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision" and not _DECLARED:
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _DECLARED.append(library)
        return None


def add() -> None:
    """Put torchvision on the path, if it is installed."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        sys.meta_path.insert(0, _Finder())
