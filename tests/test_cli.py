"""The ``agesdk`` command, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import agesdk
from agesdk import errors
from agesdk.cli import main
from tests import tiny_bundle

ROOT = Path(__file__).parents[1]
PORTRAIT = Path(agesdk.__file__).parent / "data" / "astronaut.jpg"


def command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; a traceback is never acceptable."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "agesdk", *map(str, arguments)]
    done = subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.save(tmp_path_factory.mktemp("bundle"))


def test_version_and_help_go_to_stdout() -> None:
    assert command("--version").stdout == f"agesdk {agesdk.__version__}\n"
    assert "age or rejuvenate zones" in command("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["lift"], "invalid choice: 'lift'"),
        (["age"], "required: PHOTO, OUT"),
        (["age", "a.jpg", "b.png"], "No target is given"),
        (["age", "a.jpg", "b.png", "--zone", "forehead"], "not NAME=PERCENT"),
        (["age", "a.jpg", "b.png", "--zone", "forehead=120"], "outside 0 to 100 percent"),
        (["age", "a.jpg", "b.png", "--zone", "forehead=nan"], "outside 0 to 100 percent"),
        (["age", "a.jpg", "b.png", "--zone", "forehead=much"], "not a percentage"),
        (["age", "a.jpg", "b.png", "--zone", "forhead=50"], "Did you mean 'forehead'"),
        (["age", "a.jpg", "b.png", "--zone", "forehead=keep"], "No zone has a target"),
        (["age", "a.jpg", "b.png", "--uniform", "-1"], "outside 0 to 100 percent"),
        (["age", "a.jpg", "b.png", "--uniform", "50", "--strength", "2"], "outside 0 to 1"),
        (["age", "a.jpg", "b.png", "--uniform", "50", "--steps", "0"], "below 1"),
        (["age", "a.jpg", "b.png", "--uniform", "50", "--threads", "many"], "invalid integer value"),
        (["analyze"], "required: PHOTO"),
        (["bundle"], "required: ACTION"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_output_that_can_not_be_written_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["age", str(PORTRAIT), "missing/out.png", "--uniform", "50"]) == 1
    assert "the folder missing does not exist" in capsys.readouterr().err
    assert main(["age", str(PORTRAIT), "out.gif", "--uniform", "50"]) == 1
    assert "Use one of .png" in capsys.readouterr().err


def test_the_photo_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    before = PORTRAIT.read_bytes()
    assert main(["age", str(PORTRAIT), str(PORTRAIT), "--uniform", "50"]) == 2
    assert main(["analyze", str(PORTRAIT), "--overlay", str(PORTRAIT)]) == 2
    assert "is the photo itself" in capsys.readouterr().err
    assert PORTRAIT.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.ZoneError("x"), 2),
        (errors.TargetError("x"), 2),
        (errors.ImageError("x"), 2),
        (errors.FaceError("x"), 2),
        (errors.BundleError("x"), 1),
        (errors.BackendError("x"), 1),
        (errors.OutputError("x"), 1),
        (errors.Cancelled(), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code_and_a_json_object(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("agesdk.bundle.Bundle.open", fail)
    assert main(["bundle", "info", "x", "--json"]) == code
    output = capsys.readouterr()
    assert output.err.startswith("agesdk: ")
    expected = "Cancelled" if code == 130 else type(error).__name__
    assert json.loads(output.out)["error"]["type"] == expected


def test_bundle_info_tells_tensors_settings_and_provenance(bundle: Path) -> None:
    text = command("bundle", "info", bundle).stdout
    assert "tiny 0.1, zone-aging" in text
    assert "<- x: float32 [batch, 4]" in text
    assert "note: for tests" in text
    described = json.loads(command("bundle", "info", bundle, "--json").stdout)
    assert described["manifest"]["components"]["add"]["profile"] == {"batch": [1, 1, 8]}


def test_bundle_verify_tells_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    done = command("bundle", "verify", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 files verified" in done.stdout
    broken = tiny_bundle.save(tmp_path)
    (broken / tiny_bundle.DATA).write_bytes(b"x" * 16)
    done = command("bundle", "verify", broken)
    assert done.returncode == 1
    assert "its SHA-256 is not the manifest's" in done.stderr


def test_a_closed_pipe_is_no_traceback(bundle: Path) -> None:
    line = [sys.executable, "-m", "agesdk", "bundle", "info", str(bundle)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()
