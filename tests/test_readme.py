"""The README's examples run as they stand: every ``python`` block, every ``agesdk`` line of a shell block.

A block under the comment ``<!-- not run -->`` is left out: it needs what a test machine has not.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import agesdk
from agesdk.cli import main

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text("utf-8") if README.exists() else ""
BLOCKS = re.findall(r"(<!-- not run -->\s*)?^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [body for skipped, language, body in BLOCKS if language == "python" and not skipped]
SHELL = [
    body for skipped, language, body in BLOCKS if language in ("", "sh", "bash", "console") and not skipped
]
COMMANDS = [
    line.strip() for body in SHELL for line in body.splitlines() if line.strip().startswith("agesdk ")
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(Path(agesdk.__file__).parent / "data/astronaut.jpg", tmp_path / "portrait.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=[str(index) for index in range(len(PYTHON))])
def test_python_blocks_run(block: str, workplace: Path) -> None:
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_run(line: str, workplace: Path) -> None:
    assert main(shlex.split(line, comments=True)[1:]) == 0


def test_there_are_examples_and_no_placeholders() -> None:
    assert PYTHON and any(line.startswith("agesdk demo") for line in COMMANDS)
    assert "@@" not in TEXT
