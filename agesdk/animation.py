"""Short films of pictures, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from agesdk import atomic
from agesdk.errors import OutputError

SUFFIXES = (".mp4", ".gif")


def write_animation(path: str | os.PathLike[str], frames: Sequence[np.ndarray], seconds: float) -> None:
    """Write pictures one after the other as ``.mp4`` (MPEG-4) or ``.gif`` (loops).

    Parameters
    ----------
    frames:
        uint8 [H, W, 3] RGB, of one size; even sides for ``.mp4``.
    seconds:
        How long each is shown.

    Raises
    ------
    OutputError
        Another suffix, a folder that is not writable, or an OpenCV that can not write the format.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} names no known format", "", f"Use one of {', '.join(SUFFIXES)}")
    atomic.check_writable(path)
    bgr = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}{path.suffix.lower()}")
    try:
        written = (
            _write_gif(temporary, bgr, seconds)
            if path.suffix.lower() == ".gif"
            else _write_mp4(temporary, bgr, seconds)
        )
        if not written or not temporary.is_file():
            raise OutputError(
                f"{path} can not be written",
                f"this OpenCV ({cv2.__version__}) has no encoder for {path.suffix}",
                "Choose the other format",
            )
        os.replace(temporary, path)
    except (OSError, cv2.error) as error:
        raise OutputError(f"{path} can not be written", str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_gif(path: Path, frames: Sequence[np.ndarray], seconds: float) -> bool:
    if not hasattr(cv2, "imwriteanimation"):  # OpenCV before 4.11
        return False
    animation: Any = cv2.Animation()
    animation.frames = list(frames)
    animation.durations = np.full(len(frames), round(1000 * seconds), np.int32)
    return bool(cv2.imwriteanimation(str(path), animation))


def _write_mp4(path: Path, frames: Sequence[np.ndarray], seconds: float) -> bool:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 1.0 / seconds, (width, height))
    try:
        if not writer.isOpened():
            return False
        for frame in frames:
            writer.write(frame)
    finally:
        writer.release()
    return True
