"""agesdk: a face, aged zone by zone or as a whole, on one's own machine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle
    from .errors import (
        AgeSDKError,
        BackendError,
        BundleError,
        Cancelled,
        FaceError,
        ImageError,
        OutputError,
        TargetError,
        UsageError,
        ZoneError,
    )
    from .faces import Face, FaceAnalyzer
    from .lifespan_aging import LifespanAger, LifespanFace, LifespanResult
    from .zone_aging import AgingResult, ZoneAger

__version__ = "0.1.0"

_HOMES = {
    "AgeSDKError": ".errors",
    "AgingResult": ".zone_aging",
    "BackendError": ".errors",
    "Bundle": ".bundle",
    "BundleError": ".errors",
    "Cancelled": ".errors",
    "Face": ".faces",
    "FaceAnalyzer": ".faces",
    "FaceError": ".errors",
    "ImageError": ".errors",
    "LifespanAger": ".lifespan_aging",
    "LifespanFace": ".lifespan_aging",
    "LifespanResult": ".lifespan_aging",
    "OutputError": ".errors",
    "TargetError": ".errors",
    "UsageError": ".errors",
    "ZoneAger": ".zone_aging",
    "ZoneError": ".errors",
}

__all__ = [
    "AgeSDKError",
    "AgingResult",
    "BackendError",
    "Bundle",
    "BundleError",
    "Cancelled",
    "Face",
    "FaceAnalyzer",
    "FaceError",
    "ImageError",
    "LifespanAger",
    "LifespanFace",
    "LifespanResult",
    "OutputError",
    "TargetError",
    "UsageError",
    "ZoneAger",
    "ZoneError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import agesdk`` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agesdk' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
