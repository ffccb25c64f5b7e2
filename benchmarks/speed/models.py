"""Bundles made on the way to a measurement."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from agesdk.errors import UsageError


def export_bundle(kind: str, checkpoint: Path, bundle: Path, *options: str) -> None:
    """``python -m export KIND CHECKPOINT BUNDLE``, whose memory ends with it; `UsageError` if it fails."""
    print(f"exporting {checkpoint} to {bundle}", file=sys.stderr)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "export", kind, str(checkpoint), str(bundle), *options]
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(f"{checkpoint} can not be exported", lines[-1])


def check_pair(arguments: argparse.Namespace) -> None:
    """Raise `UsageError` where a checkpoint is given without its bundle, or a bundle without its checkpoint:
    the other one, kept from an earlier run, would have other weights."""
    for given, missing in (("checkpoint", "bundle"), ("bundle", "checkpoint")):
        if getattr(arguments, given) is not None and getattr(arguments, missing) is None:
            raise UsageError(
                f"--{given} is given without --{missing}",
                "both must have the same weights",
                f"Give --{missing} too"
                + ("; a bundle that does not exist is exported" if given != "bundle" else ""),
            )
