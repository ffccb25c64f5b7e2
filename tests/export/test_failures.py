"""Broken checkpoints and impossible options: one precise sentence, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from agesdk.errors import AgeSDKError, OutputError, UsageError
from export import ldla, parity
from export.__main__ import main
from export.bundle_writer import new_bundle
from export.errors import CheckpointError, ExportError, ParityError
from export.ldla import Options, export_ldla


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def sd_copy(sd_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def only_first_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export nothing but the condition's encoder, to be quick."""
    make_plans = ldla.make_plans
    monkeypatch.setattr(ldla, "make_plans", lambda *arguments: make_plans(*arguments)[1:2])


def fails(checkpoint: Path, error: type[AgeSDKError], words: str, **options: Any) -> None:
    """Exporting raises the error, and leaves the folder beside the checkpoint as it was."""
    folder = checkpoint.parent / "out"
    folder.mkdir(exist_ok=True)
    with pytest.raises(error, match=words):
        export_ldla(Options(checkpoint, folder / "bundle", progress=False, **options))
    assert list(folder.iterdir()) == []


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_key(path: Path, key: str) -> None:
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path)


@pytest.mark.parametrize(
    "path, words",
    [
        ("vae", r"no folder vae/"),
        ("unet/config.json", r"unet/config\.json is missing"),
        ("unet/model.safetensors", r"unet has no \.safetensors"),
        ("condition_encoder", r"neither text_encoder/ nor condition_encoder/"),
        ("score_net", r"score_net is missing"),
        ("scheduler/scheduler_config.json", r"scheduler_config\.json is missing"),
    ],
)
def test_a_missing_part_is_named(checkpoint: Path, path: str, words: str) -> None:
    target = checkpoint / path
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    fails(checkpoint, CheckpointError, words)


def test_a_missing_tokenizer_file_is_named(sd_copy: Path) -> None:
    (sd_copy / "tokenizer" / "merges.txt").unlink()
    fails(sd_copy, CheckpointError, r"merges\.txt is missing")


def test_pickled_weights_are_not_read(checkpoint: Path) -> None:
    (checkpoint / "vae" / "model.safetensors").rename(checkpoint / "vae" / "model.bin")
    fails(checkpoint, CheckpointError, r"model\.bin is a pickle, which is not read")


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_cut_weights_are_damaged(checkpoint: Path, size: int) -> None:
    path = checkpoint / "unet" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    fails(checkpoint, CheckpointError, r"unet/model\.safetensors is damaged")


def test_a_missing_key_of_a_small_model_is_named(checkpoint: Path) -> None:
    drop_key(checkpoint / "vae" / "model.safetensors", "decoder.0.weight")
    fails(checkpoint, CheckpointError, r"decoder\.0\.weight")


def test_a_missing_key_of_a_diffusers_model_is_named_not_made_up(sd_copy: Path) -> None:
    drop_key(sd_copy / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_in.weight")
    fails(sd_copy, CheckpointError, r"lack the key decoder\.conv_in\.weight")


def test_a_missing_key_of_the_text_encoder_is_named(sd_copy: Path, only_first_network: None) -> None:
    path = sd_copy / "text_encoder" / "model.safetensors"
    key = next(name for name in load_file(path) if "layers.0.mlp.fc1.weight" in name)
    drop_key(path, key)
    fails(sd_copy, CheckpointError, r"lack the key .*mlp\.fc1\.weight")


def test_weights_of_another_shape_are_refused(sd_copy: Path) -> None:
    path = sd_copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.weight"] = tensors["decoder.conv_in.weight"][:, :, :1].contiguous()
    save_file(tensors, path)
    fails(sd_copy, CheckpointError, r"decoder\.conv_in\.weight")


def test_weights_that_are_not_finite_are_refused(sd_copy: Path, only_first_network: None) -> None:
    path = sd_copy / "text_encoder" / "model.safetensors"
    save_file({name: tensor * np.nan for name, tensor in load_file(path).items()}, path)
    fails(sd_copy, ParityError, r"not finite in torch")


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda c: edit_json(c / "unet" / "config.json", _class_name="FluxTransformer"),
            r"class 'FluxTransf",
        ),
        (lambda c: (c / "vae" / "config.json").write_text("{"), r"vae/config\.json is not JSON"),
        (lambda c: edit_json(c / "model_index.json", colour="red"), r"unknown key 'colour'"),
        (lambda c: edit_json(c / "model_index.json", mode="inpaint"), r"mode"),
        (lambda c: edit_json(c / "model_index.json", defaults={"steps": 0}), r"defaults\.steps"),
        (lambda c: edit_json(c / "condition_encoder" / "config.json", ancestries=["", ""]), r"ancestries"),
        (
            lambda c: edit_json(c / "scheduler" / "scheduler_config.json", _class_name="Heun"),
            r"scheduler Heun",
        ),
        (
            lambda c: edit_json(c / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True),
            r"rescale_betas_zero_snr",
        ),
    ],
)
def test_a_configuration_that_can_not_be_exported_is_named(
    checkpoint: Path, change: Callable[[Path], Any], words: str
) -> None:
    change(checkpoint)
    fails(checkpoint, CheckpointError, words)


def test_a_unet_of_another_mode_is_refused(checkpoint: Path) -> None:
    from export.checkpoint import EXPECTED, load_module
    from export.graphs import Denoise

    unet = load_module(checkpoint / "unet", EXPECTED["unet"])
    with pytest.raises(CheckpointError, match="in_channels is 9, but the checkpoint's other parts need 4"):
        Denoise(unet, 4, (16, 16, 16), (2, 8), conditioned=False)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"keep_fp32": ("nothing",)}, r"--keep-fp32 nothing names no component"),
        ({"refiner": Path("anywhere")}, r"refiner needs a checkpoint with a text encoder"),
        ({"name": "a/b"}, r"name is 'a/b'"),
        ({"quality": Path("nowhere.json")}, r"quality file nowhere\.json can not be read"),
        ({"licenses": Path("nowhere.md")}, r"licence file nowhere\.md can not be read"),
        ({"calibration": Path("nowhere.json")}, r"calibration file nowhere\.json can not be read"),
    ],
)
def test_an_impossible_option_is_told_before_work_is_done(
    checkpoint: Path, options: dict[str, Any], words: str
) -> None:
    fails(checkpoint, UsageError, words, **options)


@pytest.mark.parametrize(
    "document, words",
    [
        ({"calibration": {"forehead": [[0, 0], [0.5, 0.9], [1, 0.8]]}}, r"calibration\.forehead"),
        ({"calibration": {"nose": [[0, 0], [1, 1]]}}, r"calibration\.nose"),
        ({"curves": {}}, r"unknown key 'curves'"),
    ],
)
def test_a_calibration_that_is_not_valid_is_refused(
    checkpoint: Path, tmp_path: Path, document: dict[str, Any], words: str
) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(document))
    fails(checkpoint, AgeSDKError, words, calibration=path)


def test_figures_that_are_not_finite_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    path.write_text('{"distance": NaN}')
    fails(checkpoint, UsageError, r"NaN is not a JSON number", quality=path)


def test_an_existing_folder_that_is_no_bundle_is_never_touched(checkpoint: Path) -> None:
    for replace_it in (False, True):
        with pytest.raises(UsageError, match="is not a bundle"):
            export_ldla(Options(checkpoint, checkpoint, replace=replace_it, progress=False))
    assert (checkpoint / "unet" / "model.safetensors").is_file()


def test_a_bundle_is_replaced_only_on_demand_and_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    with pytest.raises(UsageError, match="--replace"), new_bundle(target):
        pass
    with pytest.raises(KeyboardInterrupt), new_bundle(target, replace=True) as writer:
        writer.write_text("LICENSES.md", "new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (target / "manifest.json").read_text() == "old"
    with new_bundle(target, replace=True) as writer:
        writer.write_text("manifest.json", "new")
        writer.finished = True
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (target / "manifest.json").read_text() == "new"


def test_a_place_that_can_not_be_written_is_told(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can not be written"):
        export_ldla(Options(checkpoint, tmp_path / "file" / "bundle", progress=False))


def test_a_graph_that_computes_something_else_fails_the_export(
    checkpoint: Path, only_first_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = parity.record

    def shifted(*arguments: Any) -> parity.Record:
        made = record(*arguments)
        return replace(made, outputs={name: array + np.float32(0.01) for name, array in made.outputs.items()})

    monkeypatch.setattr(parity, "record", shifted)
    fails(checkpoint, ParityError, r"encoder_hidden_states of condition_encoder differs from torch's")


def test_a_graph_that_torch_can_not_trace_is_told_in_one_sentence(
    checkpoint: Path, only_first_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, zone: Any, score: Any) -> Any:
        return self.encoder(zone, score) * (2 if float(score[0]) > 0 else 3)

    monkeypatch.setattr("export.graphs.ConditionEncoder.forward", forward)
    fails(checkpoint, ExportError, r"ConditionEncoder can not be exported to ONNX")


def test_the_command_line_prints_a_sentence_and_exits_with_2(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(checkpoint / "vae")
    assert main(["ldla", str(checkpoint), str(checkpoint.parent / "bundle")]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().endswith("is not a checkpoint: it has no folder vae/.")
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert not (checkpoint.parent / "bundle").exists()


def test_help_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from export.__main__ import main\n"
        "try: main(['ldla', '--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'torch', 'onnx', 'diffusers', 'onnxruntime'} & set(sys.modules), 'heavy import'"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)
