"""The int8 conversion of a zone-aging bundle: calibrated, judged and timed on real crops."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from agesdk.backends import Engine, load_engine
from agesdk.backends.base import mix_guidance
from agesdk.bundle import Bundle, Component, ZoneAgingSettings
from agesdk.errors import UsageError
from agesdk.zone_model import ZoneModel

from .calibration import Feeds, Sample, age_sample, psnr, read_sample, record
from .convert import Converted, Options, float32_components, graph_name
from .errors import ExportError
from .int8 import Layer, Quantizer, leave_out, write

if TYPE_CHECKING:
    from .bundle_writer import BundleWriter

logger = logging.getLogger(__name__)

COMPONENTS = ("denoise", "vae_decoder", "vae_encoder")
"""Where a wave spends its time; the others are a thousandth of it."""
CALIBRATION_CROPS = 8
SEARCH_CROPS = 8
JUDGED_CROPS = 24
"""Crops of held-out people that the finished graphs are judged on."""
MARGIN_DB = 0.5
"""The search aims this much higher than what is asked on the judged crops."""
TIMED_RUNS = 15
LEAST_GAIN = 0.9
"""A component is preferred on CPUs where it takes less than this share of the float32 graph's time."""


def to_int8(
    source: Bundle, options: Options, writer: BundleWriter
) -> tuple[dict[str, Converted], dict[str, Any]]:
    """Write the quantised graphs; what was made, and what was measured for the provenance.

    Raises
    ------
    UsageError
        Not a zone-aging bundle, or no crops given.
    ExportError
        The wanted PSNR is not reached on held-out crops.
    """
    settings = source.settings
    if not isinstance(settings, ZoneAgingSettings):
        raise UsageError(
            f"{source.path} is a bundle of the kind {source.manifest.kind}",
            "int8 is calibrated on zone crops",
            "Convert it to fp16",
        )
    assert options.crops is not None
    crops = options.crops

    def sample(split: str, count: int, seed: int) -> Sample:
        return read_sample(crops, split, count, settings.zones, settings.crop_size, seed)

    names = [name for name in COMPONENTS if name in float32_components(source, options)]
    feeds, _ = record(source, sample("train", CALIBRATION_CROPS, 0))
    quantizers = {}
    for name in names:
        started = time.process_time()
        quantizers[name] = Quantizer(source.component_path(name), feeds[name])
        logger.info("%s: calibrated in %.0f s of processor time", name, time.process_time() - started)
    trial = _Trial(source, quantizers)
    layers = [(name, layer) for name in names for layer in quantizers[name].layers]
    if options.search:
        judge = sample("val", SEARCH_CROPS, 1)
        expected = trial.aged(judge, [])

        def damage(quantized: Sequence[Layer]) -> float:
            found = trial.aged(judge, quantized)
            return float(np.mean((found.astype(np.float64) - expected) ** 2))

        limit = 255.0**2 / 10.0 ** ((options.min_psnr + MARGIN_DB) / 10.0)
        kept, _ = leave_out(layers, damage, limit, _progress(options.progress))
    else:
        kept = layers
    held_out = sample("test", JUDGED_CROPS, 2)
    expected = trial.aged(held_out, [])
    found = trial.aged(held_out, kept)
    reached = psnr(expected, found)
    worst = min(psnr(a, b) for a, b in zip(expected, found, strict=True))
    logger.info("PSNR of %d held-out crops: %.1f dB, worst %.1f dB", len(found), reached, worst)
    if options.search and reached < options.min_psnr:
        raise ExportError(
            f"int8 reaches {reached:.1f} dB of the {options.min_psnr:g} dB asked",
            "even with sensitive layers in float32",
            "Ask for less with --min-psnr, or keep float32",
        )
    made, components = {}, {}
    for name in names:
        mine = [layer for component, layer in kept if component == name]
        if not mine:
            continue
        folder = writer.component_folder(graph_name(name, "int8"))
        files = write(quantizers[name].quantized(mine), folder)
        ratio = time_ratio(source.component_path(name), folder / files[0], feeds[name][0])
        good = reached >= options.min_psnr and ratio < LEAST_GAIN
        made[name] = Converted(files, "cpu" if good else None)
        left = [layer for layer in quantizers[name].layers if layer not in mine]
        components[name] = {"time_ratio": round(ratio, 3), "layers": len(mine), "left_in_fp32": left}
        size = sum((folder / file).stat().st_size for file in files) / 1e6
        logger.info("%s: %.2f of the float32 graph's time, %.1f MB", name, ratio, size)
    if not made:
        raise ExportError("No layer can be quantised", "each alone costs more than the wanted PSNR allows")
    measured = {
        "psnr_db": round(reached, 2),
        "worst_crop_psnr_db": round(worst, 2),
        "crops": len(found),
        "components": components,
    }
    return made, measured


def time_ratio(exact: Path, quantized: Path, feeds: Feeds) -> float:
    """Processor time of a quantised graph over the float32 graph's: medians of alternate runs, one thread."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (exact, quantized)
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_RUNS):
        for session, times in zip(sessions, seconds, strict=True):
            started = time.process_time()
            session.run(None, dict(feeds))
            times.append(time.process_time() - started)
    return float(np.median(seconds[1]) / np.median(seconds[0]))


class _Trial:
    """Ages crops with chosen layers quantised; graphs that did not change stay loaded."""

    def __init__(self, source: Bundle, quantizers: Mapping[str, Quantizer]) -> None:
        self._source = source
        self._quantizers = quantizers
        self._loaded: dict[str, tuple[tuple[str, ...], Engine]] = {}

    def aged(self, sample: Sample, quantized: Sequence[Layer]) -> np.ndarray:
        """uint8 [N, S, S, 3]."""

        def load(bundle: Bundle, name: str) -> Engine:
            layers = tuple(layer for component, layer in quantized if component == name)
            if name not in self._loaded or self._loaded[name][0] != layers:
                self._loaded[name] = (layers, self._open(bundle.component(name), layers))
            return self._loaded[name][1]

        return age_sample(ZoneModel(self._source, load), sample)

    def _open(self, component: Component, layers: tuple[str, ...]) -> Engine:
        if not layers:
            return load_engine(self._source, component.name, threads=1)
        return _Unbundled(component, self._quantizers[component.name].quantized(layers))


class _Unbundled:
    """An `Engine` of a graph that is in no bundle yet."""

    def __init__(self, component: Component, model: onnx.ModelProto) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.name, self.inputs, self.outputs = component.name, component.inputs, component.outputs
        self.profile = component.profile
        # Through a file: beyond 2 GB a graph can not be handed over in memory.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            graph = Path(folder) / write(model, Path(folder))[0]
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def to_device(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_host(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    def guide(self, halves: Any, scale: float) -> np.ndarray:
        return mix_guidance(halves, scale)


def _progress(visible: bool) -> Callable[[int, int], object]:
    from tqdm import tqdm

    bar = tqdm(unit="layer", desc="sensitivity", disable=not visible)

    def report(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report
