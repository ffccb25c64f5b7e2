"""Pictures made to harm: each is refused with an ImageError, quickly and before memory is spent."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agesdk.errors import ImageError
from agesdk.imaging import read_image, read_picture, read_settings


def encoded(container: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, container, exif=exif)
    return buffer.getvalue()


SOUND = {container: encoded(container) for container in ("JPEG", "PNG", "WEBP")}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    data = bytearray(SOUND["JPEG"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_bomb() -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x00\x00\x00\x00"
        + b"\xff\x3f\x00" * 2
        + b"VP8L\x05\x00\x00\x00\x2f"
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(100_000, 100_000, chunk(b"IDAT", zlib.compress(b"\x00" * 1000))), "100000 x 100000 pixels"),
        (png(2**31 - 1, 1), "the limit is"),
        (png(1, 40_000), "the limit is"),
        (png(0, 10), "gives no size"),
        (jpeg_bomb(65_500, 65_500), "65500 x 65500 pixels"),
        (jpeg_bomb(60, 0), "gives no size"),
        (webp_bomb(), "16384 x 16384 pixels"),
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
        (b"\xff\xd8\xff", "damaged or cut off"),
        (b"\xff\xd8\xff\xe0\x00\x00" + b"\x00" * 64, "damaged or cut off"),
        (b"\xff\xd8" + b"\xff" * 5000, "damaged or cut off"),
        (b"RIFF\x00\x00\x00\x00WEBP", "gives no size"),
        (b"GIF89a" + b"\x00" * 64, "it is a GIF"),
        (b"BM" + b"\x00" * 64, "it is a BMP"),
        (b"II*\x00" + b"\x00" * 64, "it is a TIFF"),
        (b"\x00\x00\x00\x18ftypheic" + b"\x00" * 64, "an HEIC"),
        (b"v/1\x01" + b"\x00" * 64, "of an unknown format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "of an unknown format"),
    ],
)
def test_bombs_and_foreign_formats_are_refused_from_their_header(data: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        read_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("container", SOUND)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cut_off_pictures_are_refused(container: str, share: float) -> None:
    data = SOUND[container]
    with pytest.raises(ImageError):
        read_image(data[: int(len(data) * share)])


def camera_jpeg(progressive: bool = False, restart: int = 0) -> bytes:
    """A JPEG as cameras write it: its EXIF segment holds a thumbnail, a whole JPEG with its end marker."""
    pixels = np.random.default_rng(2).integers(0, 256, (120, 160, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "JPEG", progressive=progressive, restart_marker_rows=restart)
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" + SOUND["JPEG"]
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return b"\xff\xd8" + segment + whole.getvalue()[2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart": 1}])
def test_a_camera_picture_cut_off_after_its_thumbnail_is_refused(options: dict[str, Any]) -> None:
    data = camera_jpeg(**options)
    assert data.count(b"\xff\xd9") == 2
    assert read_image(data).shape == (120, 160, 3)
    assert read_image(data + b"\x00trailer\xff").shape == (120, 160, 3)
    for end in (len(data) * 3 // 4, len(data) - 2, len(data) - 1):
        for rest in (b"", b"\x00" * 64, b"\xff" * 64):
            with pytest.raises(ImageError, match="damaged or cut off"):
                read_image(data[:end] + rest)


def test_a_long_run_of_fill_bytes_costs_no_time() -> None:
    data = camera_jpeg()
    start = time.process_time()
    with pytest.raises(ImageError):
        read_image(data[:-2] + b"\xff" * 2**24)
    assert time.process_time() - start < 2.0


def test_a_frame_that_differs_from_its_header_is_refused() -> None:
    data = bytearray(SOUND["PNG"])
    struct.pack_into(">I", data, 16, 61)  # the width, without a new checksum
    with pytest.raises(ImageError, match="can not be decoded"):
        read_image(bytes(data))


def test_a_compressed_profile_bomb_is_ignored() -> None:
    bomb = chunk(b"iCCP", b"x\x00\x00" + zlib.compress(b"\x00" * 2**26, 1))
    sound = SOUND["PNG"]
    data = sound[:33] + bomb + sound[33:]
    assert read_picture(data).icc_profile is None


def test_an_exif_directory_that_points_at_itself_or_out_is_ignored() -> None:
    for exif in (b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x00", b"II*\x00\x08\x00\x00\x00\xff\xff"):
        pixels = np.zeros((4, 6, 3), np.uint8)
        done, data = cv2.imencode(".png", pixels)
        assert done
        raw = data.tobytes()
        assert read_image(raw[:33] + chunk(b"eXIf", exif) + raw[33:]).shape == (4, 6, 3)


@pytest.mark.parametrize("settings", ["[1]", "{", "[" * 100_000, '{"a": 1'])
def test_foreign_settings_never_raise(settings: str) -> None:
    xmp = b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + f'agesdk:settings="{settings}"'.encode()
    assert read_settings(png(1, 1, chunk(b"iTXt", xmp))) is None


def test_folders_missing_files_and_null_characters_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path, tmp_path / "missing.png", tmp_path / "fifo", "nul\0.png", 7):
        with pytest.raises(ImageError):
            read_image(source)  # type: ignore[arg-type]


@given(
    container=st.sampled_from(sorted(SOUND)),
    position=st.floats(0, 1, exclude_max=True),
    value=st.binary(max_size=6),
)
def test_damaged_pictures_give_pixels_or_an_image_error(
    container: str, position: float, value: bytes
) -> None:
    sound = SOUND[container]
    start = int(position * len(sound))
    try:
        pixels = read_image(sound[:start] + value + sound[start + len(value) :])
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP"]),
)
def test_noise_gives_an_image_error(start: bytes, data: bytes) -> None:
    with pytest.raises(ImageError):
        read_image(start + data)
