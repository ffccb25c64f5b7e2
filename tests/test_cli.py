"""The ``agesdk`` command, run as a user runs it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

import agesdk
from agesdk import errors
from agesdk.cli import main
from agesdk.imaging import read_image, read_settings, write_image
from tests import tiny_bundle, tiny_zone_bundle

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


@pytest.fixture(scope="module")
def zone_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_zone_bundle.save(tmp_path_factory.mktemp("zones"))


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
        (["age", "a.jpg", "b.png", "--zone", "forehead=None"], "No zone has a target"),
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


def test_age_writes_a_marked_picture_and_tells_scores(zone_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "older.png"
    arguments = ["age", PORTRAIT, out, "--zone", "nasolabial=80", "--zone", "nasolabial_right=keep"]
    done = command(*arguments, "--seed", "7", "--bundle", zone_bundle, "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["seed"] == 7
    assert list(result["zones"]) == ["nasolabial_left"]
    assert result["zones"]["nasolabial_left"]["target"] == 0.8
    settings = read_settings(out)
    assert settings is not None
    assert settings["seed"] == 7
    assert settings["targets"] == {"nasolabial_left": 0.8, "nasolabial_right": None}
    before, after = read_image(PORTRAIT), read_image(out)
    changed = np.argwhere((before != after).any(axis=2))
    assert before.shape == after.shape
    assert len(changed) > 0
    assert np.ptp(changed, axis=0).max() < 64  # one zone of a face of 110 pixels


def test_the_same_seed_gives_the_same_file(zone_bundle: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        line = ["age", str(PORTRAIT), str(tmp_path / name), "--uniform", "60%", "--seed", "3", "--quiet"]
        assert main([*line, "--bundle", str(zone_bundle), "--threads", "1"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_analyze_gives_scores_and_an_overlay_that_is_no_generated_picture(
    zone_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "zones.png"
    line = [
        "analyze",
        str(PORTRAIT),
        "--overlay",
        str(overlay),
        "--bundle",
        str(zone_bundle),
        "--threads",
        "1",
        "--json",
    ]
    assert main(line) == 0
    described = json.loads(capsys.readouterr().out)
    assert len(described["zones"]) == 12
    assert 60 < described["face"]["size"] < 160
    assert read_image(overlay).shape == read_image(PORTRAIT).shape
    assert b"digitalsourcetype" not in overlay.read_bytes()
    assert main(["analyze", str(PORTRAIT), "--bundle", str(zone_bundle), "--threads", "1"]) == 0
    assert "forehead" in capsys.readouterr().out


def test_kept_zones_are_named(zone_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "age",
        str(PORTRAIT),
        str(tmp_path / "out.png"),
        "--zone",
        "bottom=80",
        "--zone",
        "upper_lip=none",
    ]
    assert main([*line, "--bundle", str(zone_bundle), "--threads", "1"]) == 0
    assert "kept as they are: upper_lip\n" in capsys.readouterr().out


def test_a_demo_without_a_usable_photo_leaves_no_folder(zone_bundle: Path, tmp_path: Path) -> None:
    line = ["demo", str(tmp_path / "none.jpg"), "--out", str(tmp_path / "out"), "--bundle", str(zone_bundle)]
    assert main(line) == 2
    assert list(tmp_path.iterdir()) == []


def test_demo_writes_one_labelled_picture_and_says_where(zone_bundle: Path, tmp_path: Path) -> None:
    done = command("demo", "--bundle", zone_bundle, "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agesdk-demo/demo.png" in done.stdout
    height, width, _ = read_image(tmp_path / "agesdk-demo/demo.png").shape
    assert width > 3 * height
    assert sorted(path.name for path in (tmp_path / "agesdk-demo").iterdir()) == [
        "demo.png",
        "older.png",
        "younger.png",
    ]


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("missing.jpg", "does not exist"),
        ("grey.png", "shows no face"),
        ("text.jpg", "not a JPEG, PNG or WebP"),
    ],
)
def test_unusable_photos_end_with_code_2_and_no_output(
    photo: str, message: str, zone_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "grey.png", np.full((200, 200, 3), 128, np.uint8))
    (tmp_path / "text.jpg").write_text("hello")
    out = tmp_path / "out.png"
    line = [
        "age",
        str(tmp_path / photo),
        str(out),
        "--uniform",
        "50",
        "--bundle",
        str(zone_bundle),
        "--threads",
        "1",
    ]
    assert main(line) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--face", "3"], 2, "There is no face 3"),
        (["--provider", "quantum"], 2, "quantum"),
        (["--backend", "abacus"], 2, "abacus"),
        (["--refine"], 2, "no refiner"),
    ],
)
def test_what_the_bundle_or_the_machine_lacks_is_told(
    options: list[str],
    code: int,
    message: str,
    zone_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [
        "age",
        str(PORTRAIT),
        str(tmp_path / "out.png"),
        "--uniform",
        "50",
        "--bundle",
        str(zone_bundle),
        "--threads",
        "1",
    ]
    assert main([*line, *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_with_code_130_and_leaves_nothing_half_written(
    zone_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "older.png"
    options = ["--uniform", "80", "--steps", "1000", "--strength", "1", "--threads", "1"]
    line = [
        sys.executable,
        "-m",
        "agesdk",
        "age",
        str(PORTRAIT),
        str(out),
        *options,
        "--bundle",
        str(zone_bundle),
    ]
    terminal, stderr = os.openpty()  # a progress bar is drawn on a terminal only, and one that has columns
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # A shell's background job ignores interrupts, and its children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr, preexec_fn=heed)
    os.close(stderr)
    text = os.read(terminal, 1024)  # its first characters: thousands of steps to go
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while more := os.read(terminal, 1024):
            text += more
    os.close(terminal)
    assert b"Traceback" not in text
    assert list(tmp_path.iterdir()) == []
