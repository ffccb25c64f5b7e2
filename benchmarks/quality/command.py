"""``python -m benchmarks quality-zone FACES_DIR``: how good a zone-aging bundle is on faces no training
saw."""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agesdk.errors import UsageError
from benchmarks.speed.output import writable_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.quality.measure import Instruments, JudgeFunction
    from benchmarks.quality.population import Population

DEFAULT_FACES = 40
OUT = Path("runs/quality-zone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``quality-zone``."""
    parser.add_argument("faces", type=Path, metavar="FACES_DIR", help="folder with index.csv and pictures")
    parser.add_argument("--bundle", type=Path, help="zone-aging bundle (default: the embedded one)")
    parser.add_argument("--faces", dest="count", type=int, default=DEFAULT_FACES, metavar="N",
                        help="held-out faces to measure, 0 for all (default %(default)s)")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="ZONES_DIR",
                        help="output of 'python -m training prepare-zones' "
                        "(default: made from FACES_DIR in the user cache)")  # fmt: skip
    parser.add_argument("--judge", type=Path, metavar="FOLDER",
                        help="output of 'python -m training judge', or 'none' "
                        "(default: trained on the data in the user cache)")  # fmt: skip
    parser.add_argument(
        "--identity-model", type=Path, metavar="FILE", help="the npm package, its folder or .bin"
    )
    parser.add_argument("--age-model", type=Path, metavar="FILE", help="the PyPI wheel or .onnx, or 'none'")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default %(default)s)")
    parser.add_argument("--min-age", type=float, default=0.0, help="leave out younger faces, in years")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the report (default %(default)s)")
    parser.add_argument("--full-size", action="store_true", help="also write each face's pictures unscaled")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the report, print the table."""
    import torch
    from tqdm import tqdm

    from agesdk.bundle import embedded_bundle
    from agesdk.zone_aging import ZoneAger
    from benchmarks.quality import realism, report
    from benchmarks.quality.measure import measure_faces, seconds_at_one_megapixel
    from benchmarks.quality.population import held_out_portraits
    from benchmarks.quality.sheets import ContactSheets
    from benchmarks.quality.summary import summarise

    if arguments.count < 0 or arguments.threads < 1:
        raise UsageError("--faces can not be negative, and --threads not less than 1")
    out = writable_folder(arguments.out)
    # Skipped zones stand in the report; a warning at every target would drown the progress bar.
    logging.getLogger("agesdk.zone_run").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    bundle = arguments.bundle or embedded_bundle("zone-aging")
    ager = ZoneAger.load(bundle, threads=arguments.threads)
    instruments, judge_report = _instruments(arguments)
    population = instruments.population
    portraits = held_out_portraits(
        arguments.faces, population, arguments.count or None, arguments.seed, arguments.min_age
    )
    sheets = ContactSheets(out, arguments.full_size)
    with tqdm(total=len(portraits), unit="face", disable=None) as bar:
        measurements, failures = measure_faces(
            ager, portraits, instruments, arguments.seed, look=sheets.add, progress=bar.update
        )
    sheets.finish()
    if not measurements:
        raise UsageError(f"none of {len(portraits)} pictures of {arguments.faces} shows a usable face")
    crops = [crop for m in measurements for crop in m.crops]
    figures = summarise([m.face for m in measurements], crops)
    figures["real_change_by_zone"] = _real_changes(population, arguments.seed)
    figures["frechet_crops"] = realism.crop_realism(
        measurements, population, instruments.identity, arguments.seed
    )
    figures["frechet_faces"] = realism.face_realism(
        measurements, population, arguments.faces, instruments.identity, arguments.seed
    )
    usable = {m.face.file for m in measurements}
    sample = next(portrait for portrait in portraits if portrait.file in usable)
    figures["seconds"]["one_megapixel"] = seconds_at_one_megapixel(ager, sample)
    if "judge" in figures:
        figures["judge"]["held_out"] = judge_report.get("held_out", {})
    complete = {
        "provenance": report.provenance(bundle, arguments.threads),
        "networks": _networks(arguments),
        "figures": figures,
        "faces": [vars(m.face) for m in measurements],
        "failures": failures,
    }
    report.write_json(complete, out / "report.json")
    report.write_json(report.short(complete), out / "quality.json")
    report.write_crops(crops, figures["targets"], out / "crops.csv")
    (out / "report.txt").write_text(report.table(complete) + "\n", encoding="utf-8")
    print((out / "report.json").read_text(encoding="utf-8") if arguments.json else report.table(complete))
    print(
        f"\nreport.json, report.txt, crops.csv and {len(sheets.written)} pictures in {out}", file=sys.stderr
    )
    return 0


def _instruments(arguments: argparse.Namespace) -> tuple[Instruments, dict[str, Any]]:
    """What measures, and the judge's training report."""
    from benchmarks.quality.age import AgeNetwork
    from benchmarks.quality.identity import IdentityNetwork
    from benchmarks.quality.measure import Instruments

    population = _population(arguments)
    judge, judge_report = _judge(arguments, population)
    without_age = str(arguments.age_model) == "none"
    return (
        Instruments(
            population=population,
            identity=IdentityNetwork.load(arguments.identity_model),
            age=None if without_age else AgeNetwork.load(arguments.age_model),
            judge=judge,
        ),
        judge_report,
    )


def _population(arguments: argparse.Namespace) -> Population:
    from benchmarks.quality.packages import cache_folder
    from benchmarks.quality.population import Population

    folder = arguments.data
    if folder is None:
        from training.zones import prepare

        index = arguments.faces / "index.csv"
        if not index.is_file():
            raise UsageError(
                f"{index} does not exist",
                "zone crops and scores are made from pictures with ages",
                "Give FACES_DIR with an index.csv, or --data with prepared zones",
            )
        folder = cache_folder() / f"zones-{hashlib.sha256(index.read_bytes()).hexdigest()[:12]}"
        if not (folder / "DONE").exists():
            print(f"preparing zones in {folder}", file=sys.stderr)
            prepare(arguments.faces, folder)
    return Population.open(folder)


def _judge(
    arguments: argparse.Namespace, population: Population
) -> tuple[JudgeFunction | None, dict[str, Any]]:
    """The judge as a function of crops and zone kinds; trained first if none was given."""
    if str(arguments.judge) == "none":
        return None, {}
    import numpy as np

    from benchmarks.quality.packages import cache_folder
    from training import judge as training

    folder = arguments.judge
    if folder is None:
        index = hashlib.sha256((population.folder / "index.csv").read_bytes()).hexdigest()[:12]
        folder = cache_folder() / f"judge-{index}"
        if not (folder / training.CONFIG_FILE).exists():
            print(f"training the judge in {folder}", file=sys.stderr)
            data = training.ZoneData.open(population.folder)
            training.save_judge(*training.train_judge(data, training.JudgeOptions()), folder)
    network, found = training.load_judge(folder)
    zones = network.config.zones

    def judge(crops: Any, kinds: Any) -> NDArray[np.floating]:
        indices = np.array([zones.index(kind) for kind in kinds], np.int64)
        return training.judge_scores(network, np.stack(crops), indices)

    return judge, found


def _real_changes(population: Population, seed: int) -> dict[str, float]:
    """Wrinkle index of the oldest tenth of real crops minus the youngest tenth's, by kind: the yardstick."""
    import numpy as np

    random = np.random.default_rng(seed)
    return {kind: population.wrinkle_spread(kind, random) for kind in population.indices}


def _networks(arguments: argparse.Namespace) -> dict[str, str]:
    from benchmarks.quality import age, identity

    networks = {"identity and Fréchet features": f"{identity.PACKAGE.title} ({identity.PACKAGE.licence})"}
    if str(arguments.age_model) != "none":
        networks["apparent age"] = f"{age.PACKAGE.title} ({age.PACKAGE.licence})"
    return networks
