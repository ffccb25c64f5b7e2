"""``python -m export islands BUNDLE``: which operators have to stay float32 in a half-precision graph.

For every component the float32 graph is rounded as a GPU would round it (`export.half_rounding`) with
different sets of operators left in float32, and its outputs are compared with the float32 graph's.
``export convert --precision fp16`` takes the cheapest set that is about as good as the best (`choose`).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk.bundle import Bundle

if TYPE_CHECKING:
    from .calibration import Feeds

logger = logging.getLogger(__name__)

CALIBRATION_CROPS = 4
FEEDS = 6
"""Recorded calls compared per component, spread over the timesteps."""
SLACK = 1.5
"""Half of the last of 11 bits is not worth a cast around every operator."""


@dataclass(frozen=True)
class IslandError:
    """Errors relative to the largest value of the output, the worst output counting; ``casts`` between the
    precisions."""

    component: str
    islands: tuple[str, ...]
    max_error: float
    mean_error: float
    casts: int


def register(subparsers: Any) -> None:
    """Add the ``islands`` command."""
    parser = subparsers.add_parser(
        "islands",
        help="measure which operators must stay float32 in half precision",
        description="Emulate half precision with different operators left in float32, and compare.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle with float32 components")
    parser.add_argument(
        "--crops", type=Path, metavar="ZONES_DIR", help="real crops to run on (default: the goldens)"
    )
    parser.add_argument("--component", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; prints the table."""
    bundle = Bundle.open(arguments.bundle)
    feeds = recorded_feeds(bundle, arguments.crops)
    print(f"{'component':18} {'float32 beside the edges':40} {'max error':>10} {'mean error':>10} casts")
    for name in arguments.component or feeds:
        for row in measure(bundle.component_path(name), name, feeds[name]):
            islands = ", ".join(row.islands) or "nothing"
            print(f"{name:18} {islands:40} {row.max_error:10.2g} {row.mean_error:10.2g} {row.casts:5d}")
    return 0


def recorded_feeds(bundle: Bundle, crops: Path | None) -> dict[str, Sequence[Feeds]]:
    """What to run every component on: its golden's inputs, or what it sees while crops are aged."""
    feeds: dict[str, Sequence[Feeds]] = {
        name: [
            {key[len("input.") :]: a for key, a in bundle.golden(name).items() if key.startswith("input.")}
        ]
        for name in bundle.manifest.components
    }
    if crops is not None:
        from agesdk.bundle import ZoneAgingSettings
        from agesdk.errors import UsageError

        from .calibration import read_sample, record

        settings = bundle.settings
        if not isinstance(settings, ZoneAgingSettings):
            raise UsageError("Crops are for zone-aging bundles", "", "Leave --crops out")
        sample = read_sample(crops, "val", CALIBRATION_CROPS, settings.zones, settings.crop_size, 0)
        seen, _ = record(bundle, sample)
        feeds |= {name: calls[:: max(1, len(calls) // FEEDS)] for name, calls in seen.items() if calls}
    return feeds


def measure(path: Path, component: str, feeds: Sequence[Feeds]) -> list[IslandError]:
    """The errors with no island, with each candidate alone, with the default set, and with all candidates."""
    import onnx_ir as ir

    from . import tolerances
    from .precision import CANDIDATES, ISLANDS

    present = {node.op_type for node in ir.load(path).graph}
    candidates = sorted(present & CANDIDATES)
    sets = [(), *((name,) for name in candidates), tuple(sorted(present & ISLANDS)), tuple(candidates)]
    exact = [tolerances.run(path, feed) for feed in feeds]
    rows = []
    for islands in dict.fromkeys(sets):
        outputs, casts = run_rounded(path, frozenset(islands), feeds)
        errors = [_relative(exact, outputs, name) for name in exact[0]]
        worst = max(errors)
        rows.append(IslandError(component, islands, worst[0], worst[1], casts))
    return rows


def choose(path: Path, component: str, feeds: Sequence[Feeds]) -> IslandError:
    """The set with the fewest casts among those whose errors are within `SLACK` of the smallest."""
    rows = measure(path, component, feeds)
    largest, mean = min(row.max_error for row in rows), min(row.mean_error for row in rows)
    good = [row for row in rows if row.max_error <= SLACK * largest and row.mean_error <= SLACK * mean]
    return min(good or rows, key=lambda row: (row.casts, row.mean_error))


def run_rounded(
    path: Path, islands: frozenset[str], feeds: Sequence[Feeds]
) -> tuple[list[dict[str, np.ndarray]], int]:
    """Outputs of a float32 graph as if in half precision with these islands, and the casts that takes."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

    from .half_rounding import emulate, run_model, split_norms
    from .precision import to_half

    def half(norms_split: bool) -> ir.Model:
        model = ir.load(path)
        ShapeInferencePass()(model)
        if norms_split:
            split_norms(model)
        to_half(model, islands)
        RemoveUnusedNodesPass()(model)
        return model

    casts = sum(node.op_type == "Cast" for node in half(norms_split=False).graph)
    casts -= sum(node.op_type == "Cast" for node in ir.load(path).graph)
    model = half(norms_split="InstanceNormalization" not in islands)
    emulate(model)
    return [run_model(model, feed) for feed in feeds], casts


def _relative(
    exact: Sequence[Mapping[str, np.ndarray]], rounded: Sequence[Mapping[str, np.ndarray]], name: str
) -> tuple[float, float]:
    """Largest and mean error of one output over all calls, relative to its largest value."""
    from agesdk.goldens import difference

    scale = max(float(np.abs(outputs[name].astype(np.float64)).max()) for outputs in exact)
    pairs = [difference(a[name], b[name]) for a, b in zip(exact, rounded, strict=True)]
    return max(pair[0] for pair in pairs) / scale, float(np.mean([pair[1] for pair in pairs])) / scale
