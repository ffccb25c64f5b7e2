"""Bundles made on the way to a measurement."""

from __future__ import annotations

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
