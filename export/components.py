"""What every exporter does with a network: its graphs written, forgotten, and compared with what torch
computed."""

from __future__ import annotations

import importlib.metadata
import logging
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agesdk.bundle import Component
from agesdk.errors import UsageError

if TYPE_CHECKING:
    from .bundle_writer import BundleWriter
    from .graphs import Graph
    from .onnx_export import Precision
    from .parity import Difference, Record

logger = logging.getLogger(__name__)

Plan = TypeVar("Plan")


def check_kept(keep_fp32: Sequence[str], names: Sequence[str]) -> None:
    """Raise `UsageError` for a component to be kept in float32 that is none of the bundle's."""
    for name in keep_fp32:
        if name not in names:
            raise UsageError(
                f"--keep-fp32 {name} names no component", f"The components are {', '.join(names)}"
            )


def export_graphs(
    graphs: dict[str, Graph],
    precision: Precision,
    keep_fp32: Sequence[str],
    writer: BundleWriter,
    components: dict[str, Component],
    differences: dict[str, list[Difference]],
    half_storage: bool = False,
) -> None:
    """Export the graphs of one network, add them to ``components``, and compare them with torch.

    ``graphs`` is emptied on the way, so that a network that nothing else refers to is gone from memory when
    ONNX Runtime loads what was made of it.

    Raises
    ------
    ExportError, ParityError
        A graph can not be exported, or computes something else than torch.
    """
    from . import parity, tolerances
    from .onnx_export import export_graph

    records: dict[str, list[Record]] = {}
    for name in list(graphs):
        graph = graphs.pop(name).eval()
        wanted: Precision = "fp32" if name in keep_fp32 else precision
        records[name] = [parity.record(graph, sizes, seed) for seed, sizes in enumerate(graph.parity_sizes())]
        files = export_graph(graph, writer.component_folder(name), wanted, half_storage)
        components[name] = Component(
            name=name,
            precision=wanted,
            files=writer.component_files(name, files),
            inputs=graph.inputs,
            outputs=graph.outputs,
            profile=graph.profile,
        )
        writer.write_golden(name, records[name][0].as_golden())
        del graph
    for name, recorded in records.items():
        component = components[name]
        path = writer.folder / component.files[0]
        differences[name] = parity.check(name, path, component.precision, recorded)
        measured = tolerances.measure(path, component.precision, recorded[0].as_golden())
        components[name] = replace(component, tolerances=measured)
        worst = max(differences[name], key=lambda found: found.relative)
        logger.info(
            "%s: %s differs by %.2g at most (%.2g relative)",
            name,
            worst.output,
            worst.max_abs,
            worst.relative,
        )


def progress(plans: Sequence[Plan], describe: Callable[[Plan], str], visible: bool) -> Iterator[Plan]:
    """The plans, with a bar; time and peak memory of each are logged."""
    from tqdm import tqdm

    with tqdm(plans, unit="network", disable=not visible) as bar:
        for plan in bar:
            bar.set_description(describe(plan))
            start, worked = time.perf_counter(), time.process_time()
            yield plan
            logger.info(
                "%s: %.0f s (processor %.0f s), peak memory of the process %.1f GB",
                describe(plan),
                time.perf_counter() - start,
                time.process_time() - worked,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            )


def licence_text(path: Path) -> str:
    """The user's file for LICENSES.md; `UsageError` where it can not be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The licence file {path} can not be read", str(error)) from None


def tool_versions() -> dict[str, str]:
    """Versions of the packages that decide what a graph looks like, for the provenance."""
    return {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
