"""Errors: what happened, why, and what to do about it.

Every error that agesdk raises on purpose derives from :class:`AgeSDKError`, one class per kind of failure, so
a caller can catch exactly what it can handle.
"""

from __future__ import annotations


class AgeSDKError(Exception):
    """Base of all agesdk errors.

    Parameters
    ----------
    what:
        What happened, naming the file, value or component.
    why:
        The cause, where it is known.
    fix:
        The command or change that repairs it.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        statement = f"{self.what.rstrip(' .')}: {self.why}" if self.why else self.what
        return " ".join(_sentence(part) for part in (statement, self.fix) if part)


class UsageError(AgeSDKError):
    """An argument or a combination of arguments makes no sense."""


class BundleError(AgeSDKError):
    """A bundle is not valid, was altered, is of the wrong kind or of a newer schema."""


class ImageError(AgeSDKError):
    """A picture can not be read, or is beyond the limits."""


class FaceError(AgeSDKError):
    """No usable face: none found, too small, turned away, or an index that does not exist.

    Attributes
    ----------
    measured:
        What was measured, by name: for instance ``{"yaw": 71.0}`` (degrees) or ``{"size": 31.0}`` (pixels).
    """

    def __init__(
        self, what: str, why: str = "", fix: str = "", measured: dict[str, float] | None = None
    ) -> None:
        super().__init__(what, why, fix)
        self.measured = dict(measured or {})


class ZoneError(AgeSDKError):
    """A zone name is unknown, or the bundle's model does not know the zone."""


class TargetError(AgeSDKError):
    """A target, strength or another number is outside its range."""


class BackendError(AgeSDKError):
    """A backend or an execution provider is missing, failed, or refused a graph or its inputs."""


class Cancelled(AgeSDKError):
    """The progress callback asked to stop; nothing was written."""

    def __init__(
        self, what: str = "Cancelled by the progress callback", why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, why, fix)


class OutputError(AgeSDKError):
    """A result can not be written; nothing half-written is left behind."""


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
