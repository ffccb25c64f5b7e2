"""Pictures in and out: safe reading, atomic writing, and the marks that a generated picture carries.

Inside agesdk a picture is a ``numpy.ndarray`` uint8 ``[H, W, 3]``, RGB, upright. On reading, EXIF orientation
is applied, greyscale is repeated over the channels, transparency is laid over white, 16 bits are rounded to 8
and CMYK is converted without a profile (as OpenCV does, the Adobe convention). Limits are checked on the
header, before anything is decoded. Colour values are not converted: an RGB colour profile is handed over by
:func:`read_picture`, to be written with the result, so the colours look the same. No other metadata of the
source (place, camera, time) is kept.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from agesdk import __version__, atomic
from agesdk.errors import ImageError, OutputError
from agesdk.image_containers import jpeg_is_complete, read_header, with_metadata

MAX_FILE_BYTES = 128 * 2**20
"""An uncompressed 16-bit picture of a 20-megapixel camera is about this large; decoders hold the file in
memory.
"""

MAX_PIXELS = 2**26
"""67 megapixels: more than phones and most cameras give, and about 1 GB of memory at worst while decoding."""

MAX_SIDE = 32_000
"""OpenCV's geometric functions address pixels with 16-bit integers."""

JPEG_QUALITY = 95

ImageSource = str | os.PathLike[str] | bytes | np.ndarray
DigitalSource = Literal["compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia"]
"""IPTC digital source types: a photograph of which parts are generated, or a picture generated as a whole."""

_SUFFIXES = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp"}
_SETTINGS = re.compile(rb'agesdk:settings="([^"]*)"')
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:agesdk="urn:agesdk:1"
    xmp:CreatorTool="agesdk {version}"
{source}    agesdk:settings="{settings}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""

_DIGITAL_SOURCE = """\
    Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{}"
"""


@dataclass(frozen=True)
class Picture:
    """An upright picture: pixels uint8 ``[H, W, 3]`` RGB, and the RGB colour profile they are in, if any."""

    pixels: np.ndarray
    icc_profile: bytes | None = None


def read_image(source: ImageSource) -> np.ndarray:
    """Read a picture as uint8 ``[H, W, 3]`` RGB; see :func:`read_picture`."""
    return read_picture(source).pixels


def read_picture(source: ImageSource) -> Picture:
    """Read a JPEG, PNG or WebP from a path or from bytes, or check and complete an array.

    Parameters
    ----------
    source:
        A path; the bytes of a file; or an array uint8 ``[H, W]`` (grey), ``[H, W, 3]`` (RGB) or ``[H, W, 4]``
        (RGBA), upright. An RGB array is not copied: leave it unchanged for as long as the picture is used.

    Raises
    ------
    ImageError
        The picture can not be read, is cut off or refused by its decoder, of another format, or beyond the
        limits of this module. Damage that a decoder makes up for, as JPEG decoders do, is not seen.
    """
    if isinstance(source, np.ndarray):
        return Picture(_from_array(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "The picture")
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read_file(Path(source)), str(source))
    raise ImageError(
        f"A {type(source).__name__} is not a picture",
        fix="Give a path, the bytes of a file, or a numpy array",
    )


def write_image(
    path: str | os.PathLike[str],
    image: np.ndarray,
    settings: Mapping[str, Any] | None = None,
    digital_source: DigitalSource | None = "compositeWithTrainedAlgorithmicMedia",
    icc_profile: bytes | None = None,
) -> None:
    """Write a picture whole or not at all, marked as made with AI unless ``digital_source`` is None.

    The mark is an XMP packet with the IPTC digital source type, the program and its version, and ``settings``
    as JSON (read it back with :func:`read_settings`).

    Parameters
    ----------
    path:
        The suffix chooses the format: ``.png``, ``.jpg``/``.jpeg`` (quality 95, 4:4:4), ``.webp`` (lossless).
    image:
        uint8 ``[H, W, 3]`` RGB.
    icc_profile:
        The colour profile of the pixels, from :func:`read_picture`.

    Raises
    ------
    OutputError
        The suffix is unknown, the folder is not writable, or the settings do not fit into the format.
    """
    path = Path(path)
    suffix = output_suffix(path)
    packet = _XMP.format(
        version=__version__,
        source=_DIGITAL_SOURCE.format(digital_source) if digital_source else "",
        settings=html.escape(json.dumps(dict(settings or {}))),
    )
    try:
        data = with_metadata(encode_image(image, suffix), packet.encode("utf-8"), icc_profile)
    except ValueError as error:
        raise OutputError(f"{path} can not be written", str(error)) from None
    atomic.write_bytes(path, data)


def read_settings(source: str | os.PathLike[str] | bytes) -> dict[str, Any] | None:
    """The settings that :func:`write_image` stored in a picture; None if it carries none."""
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    try:
        found = _SETTINGS.search(read_header(data).xmp or b"")
        settings = json.loads(html.unescape(found.group(1).decode("utf-8"))) if found else None
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def output_suffix(path: str | os.PathLike[str]) -> str:
    """The format suffix of an output path (``.png``, ``.jpg`` or ``.webp``); OutputError for any other."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        why = f"its suffix is {suffix!r}" if suffix else "it has no suffix"
        raise OutputError(f"{path} names no known format", why, f"Use one of {', '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def encode_image(image: np.ndarray, suffix: str) -> bytes:
    """Encode uint8 ``[H, W, 3]`` RGB as ``.png``, ``.jpg`` or ``.webp``, without metadata; ValueError if
    refused.
    """
    options = {
        ".png": [],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
    }[suffix]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the array is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]")
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise ValueError(f"the encoder refused it ({error.err})") from None
    if not done:
        raise ValueError("the encoder refused it")
    return bytes(data)


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            why = "it is not a file" if path.exists() else "it does not exist"
            raise ImageError(f"{path} can not be read", why, "Check the path")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _too_large(str(path), f"{size / 2**20:.0f} MiB", f"{MAX_FILE_BYTES // 2**20} MiB")
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"{path} can not be read", error.strerror or str(error)) from None
    except ValueError as error:  # a null character in the path
        raise ImageError(f"{str(path)!r} is not a path", str(error)) from None


def _decode(data: bytes, name: str) -> Picture:
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(name, f"{len(data) / 2**20:.0f} MiB", f"{MAX_FILE_BYTES // 2**20} MiB")
    try:
        header = read_header(data)
    except ValueError as error:
        raise ImageError(f"{name} can not be read", str(error), "Convert it to JPEG, PNG or WebP") from None
    _check_size(name, header.width, header.height)
    try:
        # Unchanged: OpenCV leaves the orientation to us, who apply it alike in all formats, and keeps the
        # alpha.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):
        pixels = None
    cut_off = header.container == "jpeg" and not jpeg_is_complete(data)
    if pixels is None or pixels.shape[:2] != (header.height, header.width) or cut_off:
        raise ImageError(
            f"{name} can not be decoded", "it is damaged or cut off", "Save it again as JPEG or PNG"
        )
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError(
            f"{name} can not be decoded", f"its samples are {pixels.dtype}", "Save it with 8 bits"
        )
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        conversion = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        pixels = cv2.cvtColor(pixels, conversion, dst=pixels)  # in place: no second copy of a large picture
    return Picture(_oriented(_three_channels(pixels), header.orientation), header.icc_profile)


def _from_array(array: np.ndarray) -> np.ndarray:
    good_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not good_shape or 0 in array.shape:
        raise ImageError(
            f"The array is {array.dtype} {list(array.shape)}",
            "a picture is uint8 [H, W, 3] RGB, [H, W] grey or [H, W, 4] RGBA",
            "For floats in 0..1: (array * 255).round().clip(0, 255).astype('uint8')",
        )
    _check_size("The array", array.shape[1], array.shape[0])
    pixels = np.ascontiguousarray(_three_channels(array)).view()
    pixels.flags.writeable = False  # it may be the caller's
    return pixels


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """Grey ``[H, W]``, RGB or RGBA (over white) to RGB."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return pixels


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation (TIFF 6.0: which edge of the scene the first row and column are)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        limit = f"{MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side"
        raise _too_large(name, f"{width} x {height} pixels", limit)


def _too_large(name: str, size: str, limit: str) -> ImageError:
    return ImageError(f"{name} has {size}", f"the limit is {limit}", "Scale it down first")
