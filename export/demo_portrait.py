"""The packaged example portrait, made from scikit-image's wheel.

``skimage/data/astronaut.png`` is a photograph of Eileen Collins by NASA, in the public domain (NASA's
pictures are not copyrighted; the name and the face endorse nothing). ::

    pip download --no-deps scikit-image==0.26.0
    python -m export.demo_portrait scikit_image-0.26.0-*.whl
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import agesdk
from agesdk.imaging import read_image, write_image

MEMBER = "skimage/data/astronaut.png"


def main() -> None:
    """Write the portrait into the package."""
    parser = argparse.ArgumentParser(description="Extract the example portrait from a scikit-image wheel.")
    parser.add_argument("wheel", type=Path, help="a wheel of scikit-image 0.19 or later")
    parser.add_argument("--out", type=Path, default=Path(agesdk.__file__).parent / "data" / "astronaut.jpg")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        pixels = read_image(wheel.read(MEMBER))
    origin = {"title": "Eileen Collins", "author": "NASA", "licence": "public domain", "source": MEMBER}
    write_image(options.out, pixels, origin, digital_source=None)


if __name__ == "__main__":
    main()
