"""``agesdk lifespan``: pictures, strip and film, metrics as JSON, and errors without a traceback."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from agesdk import animation
from agesdk.cli import main
from agesdk.errors import OutputError
from agesdk.imaging import read_image, read_settings
from agesdk.lifespan_aging import LifespanAger
from tests.lifespan_reference import ROOT, Variant

PORTRAIT = str(ROOT / "agesdk/data/astronaut.jpg")


def command(variant: Variant, *arguments: str, photo: str | Path = PORTRAIT) -> list[str]:
    bundle = ["--bundle", str(variant.switch.path), "--threads", "1"]
    return ["lifespan", str(photo), *arguments, "--age", "40", "--gender", "female", *bundle]


def test_one_picture(variant_a: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "older.png"
    assert main([*command(variant_a, str(out)), "--to", "44", "--seed", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seed"] == 5 and told["settings"]["strength"] == 0.25
    assert set(told["identity"]) == {"first_pass", "final"} and told["seconds"]["total"] > 0
    ager = LifespanAger.load(variant_a.switch, threads=1)
    wanted = ager.age(ager.prepare(PORTRAIT), 40, 44, "female", seed=5)
    np.testing.assert_array_equal(read_image(out), wanted.image)
    assert [path.name for path in tmp_path.iterdir()] == ["older.png"]


def test_a_sweep_with_strip_and_film(
    variant_a: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    asked = ["--sweep", "38:44:3", "--seed", "1", "--json", "--align", "--blend"]
    assert main([*command(variant_a, str(folder)), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [item["target_age"] for item in told["ages"]] == [38, 41, 44]
    names = {path.name for path in folder.iterdir()}
    assert names == {"age_038.png", "age_041.png", "age_044.png", "strip.png", "sweep.mp4"}
    assert read_image(folder / "age_041.png").shape == read_image(PORTRAIT).shape, "the whole photograph"
    assert read_settings(folder / "age_041.png")["target_age"] == 41
    film = cv2.VideoCapture(str(folder / "sweep.mp4"))
    assert int(film.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--to", "99"], "The age 99 is out of range"),
        (["--to", "44", "--addition", "glasses", "--strength", "2"], "outside 0 to 1"),
        (["--sweep", "80:10"], "runs backwards"),
        (["--sweep", "10-80"], "not FROM:TO:STEP"),
        ([], "one of the arguments --to --sweep is required"),
        (["--to", "44", "--face", "1"], "--face chooses the face to align to"),
        (["--to", "44", "--face", "5", "--align"], "There is no face 5"),
        (["--to", "44", "--gender", "femal"], 'Did you mean "female"?'),
        (["--to", "44", "--age", "9"], "The age 9 is out of range"),
        (["--to", "44", "--strength", "0.1"], "run no step at all"),
    ],
)
def test_wrong_arguments(
    variant_a: Variant,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    out = tmp_path / ("out" if "--sweep" in arguments else "out.png")
    assert main([*command(variant_a, str(out)), *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--bundle", "none"], "the folder does not exist"),
        (["--provider", "cuda"], "not available"),
        (["--bundle", str(ROOT / "agesdk/bundles/zone-aging")], "lifespan-aging is needed"),
    ],
)
def test_a_bundle_or_provider_that_can_not_be_used(
    variant_a: Variant,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert main([*command(variant_a, str(tmp_path / "out.png")), "--to", "44", *arguments]) == 1
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_photo_without_a_face_can_not_be_aligned(
    variant_a: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "wall.png", tmp_path / "out.png"
    cv2.imwrite(str(photo), np.full((200, 300, 3), 128, np.uint8))
    arguments = command(variant_a, str(out), photo=photo)
    assert main([*arguments, "--to", "44", "--align"]) == 2
    assert "shows no face" in capsys.readouterr().err and not out.exists()
    assert main([*arguments, "--to", "44", "--quiet"]) == 0, "without aligning, nothing looks for a face"


def test_of_several_faces_the_largest_is_taken_unless_another_is_named(
    variant_a: Variant, tmp_path: Path
) -> None:
    portrait = read_image(PORTRAIT)
    small = cv2.resize(portrait, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    couple = np.full((portrait.shape[0], portrait.shape[1] + small.shape[1], 3), 128, np.uint8)
    couple[: small.shape[0], : small.shape[1]], couple[:, small.shape[1] :] = small, portrait
    photo = tmp_path / "couple.png"
    cv2.imwrite(str(photo), couple[..., ::-1])
    changed = []
    for face in ("0", "1"):
        out = tmp_path / f"{face}.png"
        arguments = command(variant_a, str(out), photo=photo)
        assert main([*arguments, "--to", "44", "--align", "--blend", "--face", face, "--quiet"]) == 0
        columns = np.nonzero((read_image(out) != couple).any(axis=(0, 2)))[0]
        changed.append((columns.min() >= small.shape[1], columns.max() < small.shape[1]))
    assert changed == [(True, False), (False, True)]


def test_an_interrupt_leaves_whole_pictures_only(variant_a: Variant, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = command(variant_a, str(folder), "--sweep", "10:75:1", "--seed", "1", "--quiet")
    # A shell's background job ignores interrupts, and its children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, "-m", "agesdk", *line], cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=heed
    )
    while process.poll() is None and not (folder / "age_010.png").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in told, told
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"age_{age:03d}.png" for age in range(10, 10 + len(names))] and len(names) < 66
    assert all(read_image(folder / name).shape == (512, 512, 3) for name in names)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_films_hold_every_picture(tmp_path: Path, suffix: str) -> None:
    frames = [np.full((64, 64, 3), level, np.uint8) for level in (0, 120, 240)]
    path = tmp_path / f"film{suffix}"
    if suffix == ".gif" and not hasattr(cv2, "imwriteanimation"):
        with pytest.raises(OutputError, match="no encoder"):
            animation.write_animation(path, frames, 0.5)
        return
    animation.write_animation(path, frames, 0.5)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    film = cv2.VideoCapture(str(path))
    shown = []
    while True:
        good, frame = film.read()
        if not good:
            break
        shown.append(float(frame.mean()))
    np.testing.assert_allclose(shown, [0, 120, 240], atol=4)


@pytest.mark.parametrize("name", ["film.avi", "none/film.mp4"])
def test_films_that_can_not_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError):
        animation.write_animation(tmp_path / name, [np.zeros((8, 8, 3), np.uint8)], 0.5)
    assert list(tmp_path.iterdir()) == []


def test_runs_with_the_runtime_dependencies_only(variant_b: Variant, tmp_path: Path) -> None:
    """In a process where torch, diffusers, transformers, onnx, tokenizers and Pillow can not be imported."""
    out = tmp_path / "older.png"
    arguments = [*command(variant_b, str(out)), "--to", "41", "--quiet"]
    script = (
        "import sys; from tests.bare_environment import Blocker; sys.meta_path.insert(0, Blocker());"
        "from agesdk.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_image(out).shape == (512, 512, 3)
