"""The code that calls TensorRT, type-checked against `tensorrt-stubs`.

The stubs have a parameter named ``in`` and a default in the wrong place, which no parser takes, and errors of
their own; they are mended in a copy, and only errors in this project's files count.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).parents[2]
CHECKED = [
    "agesdk/backends/tensorrt.py",
    "agesdk/backends/trt_library.py",
    "engines/compile.py",
]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("tensorrt_stubs") is None:
        pytest.skip("NOT TESTED: pip install tensorrt-stubs")
    folder = tmp_path_factory.mktemp("stubs")
    site = Path(importlib.util.find_spec("tensorrt_stubs").origin).parents[1]
    for path in (*site.glob("tensorrt/*.pyi"), *site.glob("tensorrt_bindings/*.pyi")):
        text = re.sub(r"\bin: list", "in_: list", path.read_text("utf-8"))
        text = text.replace("channel_axis: int)", "channel_axis: int = ...)")
        target = folder / path.relative_to(site)
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def run_mypy(stubs: Path, *paths: str) -> list[str]:
    """The lines mypy prints about these files."""
    configuration = stubs / "mypy.ini"
    configuration.write_text(
        "[mypy]\n"
        f"mypy_path = {stubs}:{ROOT}\n"
        "follow_imports = silent\nignore_missing_imports = true\nwarn_unused_ignores = false\n"
        "explicit_package_bases = true\ncheck_untyped_defs = true\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(configuration)]
    done = subprocess.run(
        [*command, "--cache-dir", str(stubs / "cache"), *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert "Found" in done.stdout or "Success" in done.stdout, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(paths)]


def test_calls_of_tensorrt_have_the_stubs_types(stubs: Path) -> None:
    assert run_mypy(stubs, *CHECKED) == []


def test_the_check_sees_a_wrong_call(stubs: Path, tmp_path: Path) -> None:
    """Else it would prove nothing."""
    text = (ROOT / "agesdk/backends/tensorrt.py").read_text("utf-8")
    wrong = text.replace("execute_async_v3(self._device.stream.handle)", 'execute_async_v3("stream")')
    assert wrong != text
    path = tmp_path / "wrong.py"
    path.write_text(wrong, encoding="utf-8")
    told = "\n".join(run_mypy(stubs, str(path)))
    assert '"execute_async_v3"' in told
