"""Faces: detection, dense landmarks, pose, alignment, zones and skin."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analyzer import FaceAnalyzer, select_face
    from .types import Face, Pose

_HOMES = {"Face": ".types", "FaceAnalyzer": ".analyzer", "Pose": ".types", "select_face": ".analyzer"}

__all__ = ["Face", "FaceAnalyzer", "Pose", "select_face"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the zone table is needed without a detector."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agesdk.faces' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value
