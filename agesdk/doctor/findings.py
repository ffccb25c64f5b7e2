"""What a diagnosis says: a `Finding` is one thing that is wrong or worth knowing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agesdk.errors import AgeSDKError

Level = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes
    ----------
    level:
        ``problem``: something that was asked for can not work. ``warning``: it works, not as well as it
        could. ``note``: worth knowing.
    what, why, fix:
        As in `AgeSDKError`.
    """

    level: Level
    what: str
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return str(AgeSDKError(self.what, self.why, self.fix))
