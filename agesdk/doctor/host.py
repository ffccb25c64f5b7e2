"""How probes look at a machine: its files and its commands. Whatever is absent is None, never an error."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """A command that ran: its exit code (negative: the signal that ended it) and its output."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Host:
    """The machine that is looked at; ``root`` is where its file system begins."""

    root: Path = Path("/")

    def read(self, path: str) -> str | None:
        """The text of a file given by its absolute path, null characters removed."""
        try:
            return (self.root / path.lstrip("/")).read_bytes().decode("utf-8", "replace").replace("\0", "")
        except OSError:
            return None

    def run(self, *command: str, timeout: float = 20.0) -> Done | None:
        """Run a command; None if it does not exist, can not be started or does not end in time."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Done(done.returncode, done.stdout, done.stderr)
