"""Parity: what ONNX Runtime computes from an exported graph must be what torch computed.

torch's outputs are recorded before the export, so that the torch module is gone from memory when ONNX Runtime
loads the graph. The first record becomes the bundle's golden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agesdk.goldens import LIMITS

from .errors import ParityError
from .graphs import Graph, Sizes


@dataclass(frozen=True)
class Record:
    """Inputs of a graph and torch's outputs for them."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def as_golden(self) -> dict[str, np.ndarray]:
        """Arrays under the names a bundle's golden file uses."""
        return {
            **{f"input.{name}": array for name, array in self.inputs.items()},
            **{f"output.{name}": array for name, array in self.outputs.items()},
        }


@dataclass(frozen=True)
class Difference:
    """The largest differences of one output over all records.

    ``max_abs`` and ``mean_abs`` are in the output's unit (levels for pictures), ``relative`` is ``max_abs``
    over the largest absolute reference value.
    """

    output: str
    max_abs: float
    mean_abs: float
    relative: float

    def as_json(self) -> dict[str, Any]:
        numbers = asdict(self)
        numbers.pop("output")
        return {name: float(f"{value:.3g}") for name, value in numbers.items()}


def record(graph: Graph, sizes: Sizes, seed: int) -> Record:
    """Run the torch module once on drawn inputs.

    Raises
    ------
    ParityError
        torch's own output is not finite: the weights are broken.
    """
    inputs = graph.draw(sizes, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        results = graph(**inputs)
    results = results if isinstance(results, tuple) else (results,)
    outputs = {spec.name: tensor.numpy() for spec, tensor in zip(graph.outputs, results, strict=True)}
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise ParityError(
                f"The output {name} of {type(graph).__name__} is not finite in torch",
                "the checkpoint's weights are broken, or of another scale than their configuration says",
            )
    return Record({name: tensor.numpy() for name, tensor in inputs.items()}, outputs)


def check(component: str, model: Path, precision: str, records: Sequence[Record]) -> list[Difference]:
    """Run the graph in ONNX Runtime on every record and compare.

    Raises
    ------
    ParityError
        An output differs by more than `LIMITS` of the precision allow, is not finite, or the graph does not
        run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # Packed copies of the weights, and copies folded by their transpositions and casts, pay off over many
    # runs; here they would multiply the memory.
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(model),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],
        )
        runs = [
            dict(zip(item.outputs, session.run(list(item.outputs), item.inputs), strict=True))
            for item in records
        ]
    except Exception as error:  # ONNX Runtime's exceptions have no common public base
        raise ParityError(f"ONNX Runtime can not run the exported {component}", str(error)) from error
    differences = [
        difference(name, [item.outputs[name] for item in records], [run[name] for run in runs])
        for name in records[0].outputs
    ]
    for found in differences:
        judge(component, precision, found, pictures=records[0].outputs[found.output].dtype == np.uint8)
    return differences


def difference(output: str, expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> Difference:
    """Compare the arrays of one output; a shape or dtype that differs is an infinite difference."""
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(expected, got, strict=True)):
        return Difference(output, np.inf, np.inf, np.inf)
    a = np.concatenate([array.astype(np.float64).ravel() for array in expected])
    b = np.concatenate([array.astype(np.float64).ravel() for array in got])
    error = np.abs(a - b)
    error[~np.isfinite(error)] = np.inf
    return Difference(
        output,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        relative=float(error.max() / max(np.abs(a).max(), 1e-12)),
    )


def as_json(differences: Mapping[str, Sequence[Difference]]) -> dict[str, Any]:
    """Component -> output -> numbers, for the manifest's provenance."""
    return {name: {item.output: item.as_json() for item in items} for name, items in differences.items()}


def judge(component: str, precision: str, found: Difference, pictures: bool) -> None:
    limits = LIMITS[precision]
    if pictures:
        good = found.max_abs <= limits.levels and found.mean_abs <= limits.mean_levels
        what = f"by {found.max_abs:g} grey levels (mean {found.mean_abs:.3g})"
        allowed = f"{limits.levels} (mean {limits.mean_levels:g})"
    else:
        good = found.relative <= limits.relative
        what = f"by {found.relative:.3g} of its largest value"
        allowed = f"{limits.relative:g}"
    if not good:
        raise ParityError(
            f"ONNX Runtime's {found.output} of {component} differs from torch's {what}",
            f"the limit for {precision} is {allowed}",
            f"Export this component in float32: --keep-fp32 {component}" if precision == "fp16" else "",
        )
