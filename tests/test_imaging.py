"""Reading and writing pictures, compared with Pillow."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from agesdk import atomic, imaging
from agesdk.errors import ImageError, OutputError
from agesdk.image_containers import read_header
from agesdk.imaging import read_image, read_picture, read_settings, write_image

_RANDOM = np.random.default_rng(0)
PIXELS = cv2.resize(_RANDOM.integers(0, 256, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
ALPHA = _RANDOM.integers(0, 256, (60, 80), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}


def encoded(image: Image.Image, container: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def over_white(image: Image.Image) -> np.ndarray:
    rgba = image.convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP"])
def test_pictures_of_every_orientation_come_upright(container: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), container, exif=exif)
    np.testing.assert_array_equal(read_image(data), np.array(ImageOps.exif_transpose(decoded(data))))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_png_modes_equal_pillows(mode: str) -> None:
    data = encoded(Image.fromarray(PIXELS).convert(mode), "PNG")
    np.testing.assert_array_equal(read_image(data), np.array(decoded(data).convert("RGB")))


@pytest.mark.parametrize(("mode", "container"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP")])
def test_transparency_lies_over_white(mode: str, container: str) -> None:
    image = Image.fromarray(np.dstack([PIXELS, ALPHA])).convert(mode)
    options = {"lossless": True, "exact": True} if container == "WEBP" else {}
    data = encoded(image, container, **options)
    assert np.abs(read_image(data).astype(int) - over_white(decoded(data))).max() <= 1


def test_transparent_palette_colours_lie_over_white() -> None:
    data = encoded(Image.fromarray(PIXELS).quantize(16), "PNG", transparency=3)
    np.testing.assert_array_equal(read_image(data), over_white(decoded(data)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_rounded_to_eight(channels: int) -> None:
    deep = _RANDOM.integers(0, 65536, (20, 30, channels), np.uint16)
    if channels == 4:
        deep[..., 3] = 65535
    done, data = cv2.imencode(".png", deep)
    colour = deep[..., :3][..., ::-1] if channels > 1 else np.repeat(deep, 3, axis=2)
    assert done
    np.testing.assert_array_equal(read_image(data.tobytes()), np.floor(colour / 257 + 0.5).astype(np.uint8))


def test_grey_jpegs_and_cmyk_jpegs_are_read() -> None:
    grey = encoded(Image.fromarray(PIXELS).convert("L"), "JPEG")
    np.testing.assert_array_equal(read_image(grey), np.array(decoded(grey).convert("RGB")))
    cmyk = encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(read_image(cmyk).astype(int) - np.array(decoded(cmyk).convert("RGB"))).max() <= 2


def test_paths_bytes_and_arrays_give_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "bild ä.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS), "PNG"))
    for source in (path, str(path), path.read_bytes(), PIXELS):
        np.testing.assert_array_equal(read_image(source), PIXELS)
    shared = read_image(PIXELS)
    assert np.shares_memory(shared, PIXELS) and not shared.flags.writeable and PIXELS.flags.writeable


def test_arrays_are_completed_to_three_channels() -> None:
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(read_image(grey), np.dstack([grey] * 3))
    rgba = np.dstack([PIXELS, ALPHA])
    assert np.abs(read_image(rgba).astype(int) - over_white(Image.fromarray(rgba))).max() <= 1


@pytest.mark.parametrize(
    "array",
    [
        PIXELS.astype(np.float32) / 255,
        PIXELS.transpose(2, 0, 1),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2, 2, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"a picture is uint8 \[H, W, 3\]"):
        read_image(array)


@pytest.mark.parametrize("suffix", FORMATS)
def test_written_pictures_carry_mark_settings_and_profile(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    settings = {"seed": 7, "zones": {"forehead": 0.8}, "text": "<\"é'&>"}
    write_image(path, PIXELS, settings, icc_profile=SRGB)
    with Image.open(path) as image:
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert image.info["icc_profile"] == SRGB
        difference = np.abs(np.array(image.convert("RGB")).astype(int) - PIXELS)
        assert image.format == FORMATS[suffix]
    assert difference.max() == 0 if suffix != ".jpg" else difference.mean() < 1.5
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in xmp
    assert read_settings(path) == settings
    assert read_picture(path).icc_profile == SRGB


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture_that_is_not_generated_carries_no_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, PIXELS, {"a": 1}, digital_source=None)
    assert b"digitalsourcetype" not in path.read_bytes()
    assert read_settings(path) == {"a": 1}


def test_the_xmp_packet_is_well_formed_xml(tmp_path: Path) -> None:
    import xml.etree.ElementTree as ElementTree

    write_image(tmp_path / "out.png", PIXELS, {"text": "<\"é'&>"})
    xmp = read_header((tmp_path / "out.png").read_bytes()).xmp
    assert xmp is not None
    description = next(iter(next(iter(ElementTree.fromstring(xmp)))))
    assert any(key.endswith("DigitalSourceType") for key in description.attrib)


@pytest.mark.parametrize("suffix", FORMATS)
def test_place_and_camera_of_the_source_are_not_carried_over(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    source = encoded(Image.fromarray(PIXELS), FORMATS[suffix], exif=exif)
    assert b"SecretCamera" in source
    write_image(tmp_path / f"out{suffix}", read_image(source))
    assert b"SecretCamera" not in (tmp_path / f"out{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_colour_profiles_are_read_from_every_container(suffix: str) -> None:
    data = encoded(Image.fromarray(PIXELS), FORMATS[suffix], icc_profile=SRGB)
    assert read_picture(data).icc_profile == SRGB


def test_a_profile_longer_than_a_jpeg_segment_is_split_and_joined(tmp_path: Path) -> None:
    profile = SRGB + bytes(_RANDOM.integers(0, 256, 200_000, np.uint8))
    write_image(tmp_path / "out.jpg", PIXELS, icc_profile=profile)
    assert read_picture(tmp_path / "out.jpg").icc_profile == profile
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["icc_profile"] == profile


def test_settings_of_foreign_pictures_are_none() -> None:
    assert read_settings(encoded(Image.fromarray(PIXELS), "PNG")) is None
    assert read_settings(b"not a picture") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.gif", "Use one of .png"),
        ("out", "it has no suffix"),
        ("missing/out.png", "missing does not exist"),
        ("file/out.png", "file is not a folder"),
        ("folder.png", "it is a folder"),
        ("nul\0.png", "can not be written"),
    ],
)
def test_outputs_that_can_not_be_written_leave_nothing_behind(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message):
        write_image(tmp_path / name, PIXELS)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_write_keeps_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_image(path, PIXELS)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="is not writable"):
        write_image(tmp_path / "out.png", PIXELS)


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_metadata_too_long_for_a_jpeg_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a JPEG segment holds"):
        write_image(tmp_path / "out.jpg", PIXELS, {"text": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", [PIXELS.astype(np.float32), PIXELS[..., 0]])
def test_arrays_that_can_not_be_encoded_are_told(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(OutputError, match="expected uint8"):
        write_image(tmp_path / "out.png", image)


def test_the_limits_hold_for_arrays_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS), "PNG"))
    monkeypatch.setattr(imaging, "MAX_PIXELS", 60 * 80 - 1)
    for source in (PIXELS, path):
        with pytest.raises(ImageError, match="80 x 60 pixels"):
            read_image(source)
    monkeypatch.setattr(imaging, "MAX_FILE_BYTES", 100)
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="Scale it down"):
            read_image(source)
