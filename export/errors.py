"""Errors of the export, beside those of `agesdk.errors`."""

from __future__ import annotations

from agesdk.errors import AgeSDKError


class CheckpointError(AgeSDKError):
    """A checkpoint folder lacks a file or a key, is damaged, or is of a kind that can not be exported."""


class ExportError(AgeSDKError):
    """A graph could not be made, or what was made is not valid."""


class ParityError(ExportError):
    """ONNX Runtime and torch do not agree on a component."""
