"""Options of the small models between JSON and dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def from_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a configuration dataclass: JSON has lists where the dataclass has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
