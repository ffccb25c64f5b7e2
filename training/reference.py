"""``python -m training reference-ldla``: the recipe of the embedded zone-aging bundle as one resumable
command.

    prepare-zones → vae → encode → scorenet → ldla → refine-decoder → calibrate
        → export → calibrate-bundle → int8 → judge → measure → quality

Every step is a command of its own that can also be run alone; a finished step is skipped, an interrupted one
resumes. How long each took is kept in ``OUT/recipe.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agesdk.errors import AgeSDKError

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).parent / "configs" / "reference.yaml"
LICENCES = CONFIG.with_name("reference-licences.md")
NAME, VERSION = "agesdk-zone-small", "2"
QUALITY_FACES = 24


class RecipeError(AgeSDKError):
    """A step of the recipe failed."""


@dataclass(frozen=True)
class Step:
    """A command, whether it runs on all processes, and the file that says that it is done."""

    name: str
    arguments: Sequence[str]
    done: Path
    package: str = "training"
    distributed: bool = False


def steps(faces: Path, out: Path, bundle: Path, scores: Path | None, overrides: Sequence[str]) -> list[Step]:
    """The recipe's steps in order, for a folder of faces and an output folder."""
    zones, latents, vae, run = out / "zones", out / "latents", out / "vae", out / "ldla"
    score_net, refined = out / "score_net", out / "vae-refined"
    exact, judge, measured = out / "bundle-fp32", out / "judge", out / "quality"
    settings = [
        f"output={run}",
        f"data.folder={zones}",
        f"data.latents={latents}",
        f"model.vae={vae}",
        f"model.score_net={score_net}",
        *overrides,
    ]
    given = [] if scores is None else ["--scores", str(scores)]
    return [
        Step("prepare-zones", ["prepare-zones", str(faces), str(zones), *given], zones / "DONE"),
        Step("vae", ["vae", str(faces), str(out)], vae / "config.json", distributed=True),
        Step(
            "encode",
            ["encode", str(zones), str(vae), str(latents), "--processes", "{processes}"],
            latents / "DONE",
        ),
        Step("scorenet", ["scorenet", str(zones), str(latents), str(score_net)], score_net / "config.json"),
        Step(
            "ldla",
            ["ldla", f"--config={CONFIG}", "--resume", *(f"--set={setting}" for setting in settings)],
            run / "DONE",
            distributed=True,
        ),
        Step(
            "refine-decoder",
            ["refine-decoder", str(zones), str(vae), str(refined)],
            refined / "config.json",
            distributed=True,
        ),
        Step("calibrate", ["calibrate", str(run), "--vae", str(refined)], run / "CALIBRATED"),
        Step(
            "export",
            [
                *("ldla", str(run / "checkpoint"), str(exact)),
                *("--half-storage", "--name", NAME, "--version", VERSION, "--licenses", str(LICENCES)),
            ],
            exact / "manifest.json",
            package="export",
        ),
        Step(
            "calibrate-bundle",
            ["calibrate", str(exact), "--crops", str(zones), *(["--reader", "score-net"] if scores else [])],
            out / "BUNDLE_CALIBRATED",
            package="export",
        ),
        Step(
            "int8",
            ["convert", str(exact), str(bundle), "--precision", "int8", "--crops", str(zones), "--beside"],
            bundle / "manifest.json",
            package="export",
        ),
        Step("judge", ["judge", str(zones), str(judge)], judge / "config.json"),
        Step(
            "measure",
            [
                *("quality-zone", str(faces), "--bundle", str(bundle), "--data", str(zones)),
                *("--judge", str(judge), "--faces", str(QUALITY_FACES), "--out", str(measured)),
            ],
            measured / "quality.json",
            package="benchmarks",
        ),
        Step(
            "quality",
            ["quality", str(bundle), str(measured / "quality.json")],
            measured / "DONE",
            package="export",
        ),
    ]


def run_recipe(
    recipe: Sequence[Step], out: Path, processes: int, execute: Callable[[list[str]], int]
) -> None:
    """Run what is not done; seconds of every step are added up in ``out/recipe.json``.

    ``execute`` runs a command line and gives its exit code; `RecipeError` where that is not 0.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = out / "recipe.json"
    seconds: dict[str, float] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for step in recipe:
        if step.done.exists():
            logger.info("%s: done", step.name)
            continue
        started = time.monotonic()
        code = execute(command_line(step, processes))
        seconds[step.name] = round(seconds.get(step.name, 0.0) + time.monotonic() - started, 1)
        record.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")
        if code != 0:
            raise RecipeError(
                f"step {step.name} ended with exit code {code}", fix="Run the same command again: it resumes"
            )
        if not step.done.exists():
            step.done.touch()
        logger.info("%s: %.0f s", step.name, seconds[step.name])


def command_line(step: Step, processes: int) -> list[str]:
    """The command of a step; distributed steps go through torchrun when there is more than one process."""
    arguments = [argument.replace("{processes}", str(processes)) for argument in step.arguments]
    launcher = []
    if step.distributed and processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", step.package, *arguments]


def register(subparsers: Any) -> None:
    """Add ``reference-ldla`` to the command line."""
    parser = subparsers.add_parser(
        "reference-ldla",
        help="the whole recipe of the embedded bundle, resumable",
        description="Data preparation, training, calibration and export of the embedded zone-aging bundle.",
    )
    parser.add_argument(
        "faces", type=Path, metavar="FACES_DIR", help="folder with index.csv (file, age, ...)"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="working folder: states, checkpoints, logs")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder to write")
    parser.add_argument(
        "--scores", type=Path, help="CSV with file,zone,score to use instead of computed scores"
    )
    parser.add_argument("--processes", type=int, default=2, help="training processes (default %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the ldla configuration",
    )
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """``python -m training reference-ldla``."""
    recipe = steps(arguments.faces, arguments.out, arguments.bundle, arguments.scores, arguments.set)
    run_recipe(
        recipe, arguments.out, arguments.processes, lambda line: subprocess.run(line, check=False).returncode
    )
    return 0
