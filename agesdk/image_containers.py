"""The containers of JPEG, PNG and WebP: what the header says, and writing metadata into an encoded picture.

OpenCV decodes and encodes pixels; it neither tells a picture's size before decoding it nor writes metadata.
Both are a matter of walking chunks, done here on bytes: PNG (ISO/IEC 15948) chunks, JPEG (ITU-T T.81) marker
segments, WebP (RFC 9649) RIFF chunks, and the orientation tag of EXIF.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_ICC_BYTES = 4 * 2**20
"""Display and camera profiles are below 1 MB; more is treated as absent (a PNG stores them compressed)."""

_EXIF_PREFIX = b"Exif\x00\x00"
_ICC_PREFIX = b"ICC_PROFILE\x00"
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\x00"
_PNG_XMP_KEYWORD = b"XML:com.adobe.xmp\x00"
_JPEG_SEGMENT_LIMIT = 65533
# Without stuffed bytes, restart markers and TEM: they have no body. Of the others only the end has none.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WEBP_ALPHA, _WEBP_ICC, _WEBP_XMP = 0x10, 0x20, 0x04

Container = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True)
class Header:
    """What a picture says about itself before it is decoded.

    ``width`` and ``height`` are in stored pixels, ``orientation`` is the EXIF tag (1..8) that turns them
    upright, ``icc_profile`` an RGB colour profile or None, ``xmp`` the XMP packet or None.
    """

    container: Container
    width: int
    height: int
    orientation: int = 1
    icc_profile: bytes | None = None
    xmp: bytes | None = None


def read_header(data: bytes) -> Header:
    """Walk the container of an encoded picture.

    Raises
    ------
    ValueError
        Not a JPEG, PNG or WebP, or one whose header is damaged.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png_header(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_header(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_header(data)
    except (struct.error, IndexError):
        raise ValueError("its header is damaged or cut off") from None
    raise ValueError(f"it is {_guess(data)}, not a JPEG, PNG or WebP")


def with_metadata(data: bytes, xmp: bytes, icc_profile: bytes | None = None) -> bytes:
    """Insert an XMP packet and an ICC profile into an encoded picture that carries neither.

    Raises
    ------
    ValueError
        The packet does not fit (a JPEG segment has at most 65,533 bytes).
    """
    header = read_header(data)
    if header.container == "png":
        return _png_with_metadata(data, xmp, icc_profile)
    if header.container == "jpeg":
        return _jpeg_with_metadata(data, xmp, icc_profile)
    return _webp_with_metadata(data, header, xmp, icc_profile)


def _png_header(data: bytes) -> Header:
    width = height = 0
    orientation, icc_profile, xmp = 1, None, None
    for kind, body in _png_chunks(data):
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind == b"iCCP":
            icc_profile = _rgb_profile(_inflate(body[body.index(b"\x00") + 2 :] if b"\x00" in body else b""))
        elif kind == b"iTXt" and body.startswith(_PNG_XMP_KEYWORD + b"\x00\x00\x00\x00"):
            xmp = body[len(_PNG_XMP_KEYWORD) + 4 :]
        elif kind == b"IEND":
            break
    return _checked(Header("png", width, height, orientation, icc_profile, xmp))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(PNG_SIGNATURE)
    if data[position + 4 : position + 8] != b"IHDR":
        raise ValueError("its header is damaged or cut off")
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        yield kind, b"" if kind == b"IDAT" else data[position + 8 : position + 8 + size]
        position += 12 + size


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_with_metadata(data: bytes, xmp: bytes, icc_profile: bytes | None) -> bytes:
    after_ihdr = len(PNG_SIGNATURE) + 12 + 13
    chunks = b""
    if icc_profile:
        chunks += _png_chunk(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(icc_profile))
    chunks += _png_chunk(b"iTXt", _PNG_XMP_KEYWORD + b"\x00\x00\x00\x00" + xmp)
    return data[:after_ihdr] + chunks + data[after_ihdr:]


def _jpeg_header(data: bytes) -> Header:
    orientation, xmp = 1, None
    profile_parts: dict[int, bytes] = {}
    for marker, body in _jpeg_segments(data):
        if marker == 0xE1 and body.startswith(_EXIF_PREFIX):
            orientation = _exif_orientation(body[len(_EXIF_PREFIX) :])
        elif marker == 0xE1 and body.startswith(_XMP_PREFIX):
            xmp = body[len(_XMP_PREFIX) :]
        elif marker == 0xE2 and body.startswith(_ICC_PREFIX):
            profile_parts[body[len(_ICC_PREFIX)]] = body[len(_ICC_PREFIX) + 2 :]
        elif marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack(">HHB", body[1:6])
            profile = b"".join(profile_parts[index] for index in sorted(profile_parts))
            icc_profile = _rgb_profile(profile) if channels == 3 else None
            return _checked(Header("jpeg", width, height, orientation, icc_profile, xmp))
    raise ValueError("its header is damaged or cut off")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("its header is damaged or cut off")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a body do not occur before the frame
            raise ValueError("its header is damaged or cut off")
        (size,) = struct.unpack_from(">H", data, position + 2)
        if size < 2:
            raise ValueError("its header is damaged or cut off")
        yield marker, data[position + 4 : position + 2 + size]
        position += 2 + size


def jpeg_is_complete(data: bytes) -> bool:
    """Whether a JPEG has its end marker: the picture's own, not that of a thumbnail inside a segment.

    Decoders fill what a cut-off file lacks with grey and say nothing.
    """
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        if found[0] == b"\xff\xd9":
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    if len(body) > _JPEG_SEGMENT_LIMIT:
        raise ValueError(f"a JPEG segment holds {_JPEG_SEGMENT_LIMIT} bytes, the metadata has {len(body)}")
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jpeg_with_metadata(data: bytes, xmp: bytes, icc_profile: bytes | None) -> bytes:
    position = 2
    if data[2:4] == b"\xff\xe0":  # JFIF must stay the first segment
        position += 2 + int(struct.unpack_from(">H", data, 4)[0])
    segments = _jpeg_segment(0xE1, _XMP_PREFIX + xmp)
    if icc_profile:
        room = _JPEG_SEGMENT_LIMIT - len(_ICC_PREFIX) - 2
        parts = [icc_profile[start : start + room] for start in range(0, len(icc_profile), room)]
        for index, part in enumerate(parts, 1):
            segments += _jpeg_segment(0xE2, _ICC_PREFIX + bytes([index, len(parts)]) + part)
    return data[:position] + segments + data[position:]


def _webp_header(data: bytes) -> Header:
    width = height = 0
    orientation, icc_profile, xmp = 1, None, None
    for kind, body in _webp_chunks(data):
        if kind == b"VP8X":
            width, height = _uint24(body, 4) + 1, _uint24(body, 7) + 1
        elif kind in (b"VP8 ", b"VP8L") and not width:
            width, height = _webp_frame_size(kind, body)
        elif kind == b"EXIF":
            orientation = _exif_orientation(
                body[len(_EXIF_PREFIX) :] if body.startswith(_EXIF_PREFIX) else body
            )
        elif kind == b"ICCP":
            icc_profile = _rgb_profile(body)
        elif kind == b"XMP ":
            xmp = body
    return _checked(Header("webp", width, height, orientation, icc_profile, xmp))


def _webp_frame_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        yield kind, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)


def _webp_with_metadata(data: bytes, header: Header, xmp: bytes, icc_profile: bytes | None) -> bytes:
    frames = [(kind, body) for kind, body in _webp_chunks(data) if kind in (b"VP8 ", b"VP8L", b"ALPH")]
    flags = _WEBP_XMP | (_WEBP_ICC if icc_profile else 0)
    flags |= _WEBP_ALPHA if any(kind == b"ALPH" for kind, _ in frames) else 0
    canvas = struct.pack("<I", header.width - 1)[:3] + struct.pack("<I", header.height - 1)[:3]
    body = _webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + canvas)
    if icc_profile:
        body += _webp_chunk(b"ICCP", icc_profile)
    body += b"".join(_webp_chunk(kind, frame) for kind, frame in frames)
    body += _webp_chunk(b"XMP ", xmp)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag of a TIFF structure; 1 where it is absent or the structure is damaged."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    try:
        if order is None:
            return 1
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * index)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _rgb_profile(profile: bytes) -> bytes | None:
    """The profile if it is an ICC profile of RGB data: others do not fit the pixels that are returned."""
    fits = 128 <= len(profile) <= MAX_ICC_BYTES and profile[36:40] == b"acsp" and profile[16:20] == b"RGB "
    return profile if fits else None


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_ICC_BYTES + 1)
    except zlib.error:
        return b""


def _uint24(body: bytes, offset: int) -> int:
    return body[offset] | body[offset + 1] << 8 | body[offset + 2] << 16


def _checked(header: Header) -> Header:
    if header.width < 1 or header.height < 1:
        raise ValueError("its header gives no size")
    return header


def _guess(data: bytes) -> str:
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return "an HEIC or AVIF picture or a video"
    for signature, name in (
        (b"GIF8", "a GIF"),
        (b"BM", "a BMP"),
        (b"II*\x00", "a TIFF"),
        (b"MM\x00*", "a TIFF"),
    ):
        if data.startswith(signature):
            return name
    return "of an unknown format"
