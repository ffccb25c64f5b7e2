"""Broken model trees: one precise sentence that names file and key, and nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from agesdk.errors import AgeSDKError, UsageError
from export.__main__ import main
from export.cradle2cane import Options, export_cradle2cane, plans
from export.cradle2cane.source import Source, read_state_dict
from export.errors import CheckpointError
from tests.lifespan_reference import Variant

torch = pytest.importorskip("torch")

OWN = Path("Cradle2Cane")
HPARAMS, LORA = OWN / "hparams.yml", OWN / "pytorch_lora_weights.safetensors"


@pytest.fixture
def tree(variant_a: Variant, tmp_path: Path) -> Path:
    """A copy of the tree by hard links; a file that is changed is replaced, never written into."""
    return Path(shutil.copytree(variant_a.models, tmp_path / "models", copy_function=os.link))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Export nothing but one network, to be quick."""
    make_plans = plans.make_plans

    def choose(what: str) -> None:
        monkeypatch.setattr(
            plans, "make_plans", lambda *a: [plan for plan in make_plans(*a) if plan.what == what]
        )

    return choose


def fails(tree: Path, words: str, error: type[AgeSDKError] = CheckpointError, **options: Any) -> None:
    """Exporting raises the error, and leaves the folder beside the tree as it was."""
    folder = tree.parent / "out"
    folder.mkdir(exist_ok=True)
    with pytest.raises(error, match=words):
        export_cradle2cane(Options(tree, folder / "bundle", ages=(30, 31), progress=False, **options))
    assert list(folder.iterdir()) == []


def rewrite(path: Path, write: Callable[[Path], Any]) -> None:
    path.unlink()
    write(path)


def set_hparams(tree: Path, **changes: Any) -> None:
    values = {**yaml.safe_load((tree / HPARAMS).read_text()), **changes}
    kept = {key: value for key, value in values.items() if value != "REMOVED"}
    rewrite(tree / HPARAMS, lambda path: path.write_text(yaml.safe_dump(kept)))


@pytest.mark.parametrize(
    "part",
    [
        "sdxl-turbo/unet",
        "sdxl-turbo/tokenizer_2",
        "sdxl-vae-fp16-fix",
        "clip-vit-large-patch14",
        "clip-vit-large-patch14/preprocessor_config.json",
        "backbone.pth",
        "Cradle2Cane/hparams.yml",
        "Cradle2Cane/pytorch_lora_weights.safetensors",
        "Cradle2Cane/face_project.bin",
        "Cradle2Cane/clip_project.bin",
        "sdxl-turbo/scheduler/scheduler_config.json",
        "sdxl-vae-fp16-fix/config.json",
    ],
)
def test_a_missing_part_is_named(tree: Path, part: str) -> None:
    path = tree / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    fails(tree, f"{path.name}.* is missing")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"arcface_network": "vit"}, "network 'vit'.*r18, r34, r50, r100"),
        ({"arcface_network": 18}, "arcface_network to 18.*expected str"),
        ({"clip_map_model": "twist"}, "clip_map_model to 'twist'"),
        ({"prompt_mode": "long"}, "prompt_mode to 'long'.*only 'normal'"),
        ({"train_text_encoder": True}, "train_text_encoder to True"),
        ({"use_arcface_project": False, "use_clip_project": False}, "no condition"),
        ({"use_swr": "yes"}, "use_swr to 'yes'.*expected bool"),
        ({"t1": True}, "t1 to True"),
        ({"t1": 40}, "t2"),
        ({"id_strength": 1.5}, "identity_strength is 1.5"),
        ({"variant": "bf16"}, "variant to 'bf16'"),
        ({"resolution": 500}, "resolution to 500.*multiple of 64"),
        ({"rank": "REMOVED"}, "does not set rank"),
        ({"all_strength": "0.25"}, "all_strength to '0.25'"),
    ],
)
def test_a_hyperparameter_that_is_not_supported_is_named(
    tree: Path, changes: dict[str, Any], words: str
) -> None:
    set_hparams(tree, **changes)
    fails(tree, words)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [", "!!python/object/apply:os.system ['true']\n"])
def test_hyperparameters_that_are_no_mapping(tree: Path, text: str) -> None:
    rewrite(tree / HPARAMS, lambda path: path.write_text(text))
    fails(tree, r"hparams\.yml (can not be read|is not a list)")


def test_a_rank_that_is_not_the_stated_one(tree: Path, only: Callable[[str], None]) -> None:
    only("UNet")
    set_hparams(tree, rank=8)
    fails(tree, "has rank 4.*is 8")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t, k: t.pop(k.replace("down", "up")), "lacks the key .*lora.up.weight"),
        (lambda t, k: t.update({k: t[k][:, :-1].contiguous()}), "belongs to another UNet"),
        (lambda t, k: t.update({k: t[k][None]}), r"has the shapes \[1, 4"),
        (lambda t, k: t.update({"text_encoder.x": t[k].clone()}), "has the key 'text_encoder.x'"),
        (lambda t, k: t.update({k: t[k] * float("nan")}), "is not finite"),
        (
            lambda t, k: t.update(
                {k.replace("attn", "attention"): t.pop(k), "x": t.pop(k.replace("down", "up"))}
            ),
            "has the key 'x'",
        ),
    ],
)
def test_a_lora_that_does_not_fit(tree: Path, only: Callable[[str], None], change: Any, words: str) -> None:
    only("UNet")
    tensors = load_file(tree / LORA)
    change(tensors, sorted(k for k in tensors if ".down." in k)[0])
    rewrite(tree / LORA, lambda path: save_file(tensors, path))
    fails(tree, words)


@pytest.mark.parametrize(
    "what, file, change, words",
    [
        ("ArcFace", "backbone.pth", lambda t: t.pop("layer2.1.prelu.weight"), "lacks the key layer2.1.prelu"),
        ("ArcFace", "backbone.pth", lambda t: t.update(extra=t["fc.bias"]), "has the key extra"),
        (
            "ArcFace",
            "backbone.pth",
            lambda t: t.update({"fc.weight": t["fc.weight"][:, :100]}),
            r"fc.weight.*\[512, 100\].*needs \[512, 25088\]",
        ),
        (
            "face projection",
            "Cradle2Cane/face_project.bin",
            lambda t: t["layers.4.bias"].fill_(float("inf")),
            "layers.4.bias.*not finite",
        ),
        (
            "CLIP projection",
            "Cradle2Cane/clip_project.bin",
            lambda t: t.update({"fc_out.bias": t["fc_out.bias"][:-1]}),
            "fc_out.bias.*has the shape",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit(
    tree: Path, only: Callable[[str], None], what: str, file: str, change: Any, words: str
) -> None:
    only(what)
    tensors = {key: tensor.clone() for key, tensor in torch.load(tree / file, weights_only=True).items()}
    change(tensors)
    rewrite(tree / file, lambda path: torch.save(tensors, path))
    fails(tree, words)


def test_another_network_than_the_file_holds(tree: Path, only: Callable[[str], None]) -> None:
    only("ArcFace")
    set_hparams(tree, arcface_network="r34")
    fails(tree, r"backbone\.pth lacks the key layer1\.2.*r34 has it")


def test_the_other_width_of_the_face_feature(tree: Path, only: Callable[[str], None]) -> None:
    only("face projection")
    set_hparams(tree, face_project_use_hidden_state=True)
    fails(tree, r"layers\.0\.weight.*needs \[12544, 25088\]")


class Evil:
    """What a pickle can do: run a command when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/agesdk-evil",)


@pytest.mark.parametrize("content", ["evil", "list", "nested", "cut", "text"])
def test_a_pickle_that_is_no_state_dict(tmp_path: Path, content: str) -> None:
    path = tmp_path / "backbone.pth"
    if content == "evil":
        torch.save({"a": Evil()}, path)
    elif content == "list":
        torch.save([torch.zeros(2)], path)
    elif content == "nested":
        torch.save({"state_dict": {"a": torch.zeros(2)}}, path)
    elif content == "cut":
        torch.save({"a": torch.zeros(2000)}, path)
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.write_bytes(pickle.dumps("weights") if os.name == "nt" else b"not a pickle at all")
    Path("/tmp/agesdk-evil").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"backbone\.pth is (not a plain state dict|damaged)"):
        read_state_dict(path)
    assert not Path("/tmp/agesdk-evil").exists()


def test_weights_of_the_other_variant_are_not_taken(tree: Path, only: Callable[[str], None]) -> None:
    only("UNet")
    (tree / "sdxl-turbo/unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    fails(tree, r"unet has no weights of the wanted variant.*\*\.fp16\.safetensors")


def test_nonfinite_weights_of_the_unet(tree: Path, only: Callable[[str], None]) -> None:
    only("UNet")
    path = tree / "sdxl-turbo/unet/diffusion_pytorch_model.fp16.safetensors"
    tensors = load_file(path)
    tensors["mid_block.resnets.0.conv1.bias"][3] = float("nan")
    rewrite(path, lambda target: save_file(tensors, target))
    fails(tree, "mid_block.resnets.0.conv1.bias.*not finite")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("conv_in.bias"), "lack the key conv_in.bias.*UNet2DConditionModel needs it"),
        (lambda t: t.update({"conv_in.bias": t["conv_in.bias"][:-1].clone()}), "conv_in.bias.*not the shape"),
    ],
)
def test_a_unet_that_does_not_fit(tree: Path, only: Callable[[str], None], change: Any, words: str) -> None:
    only("UNet")
    path = tree / "sdxl-turbo/unet/diffusion_pytorch_model.fp16.safetensors"
    tensors = load_file(path)
    change(tensors)
    rewrite(path, lambda target: save_file(tensors, target))
    fails(tree, words)


def test_weights_in_a_file_are_those_of_the_checkpoint(variant_a: Variant, tmp_path: Path) -> None:
    from export.checkpoint import load_pretrained

    folder = variant_a.models / "sdxl-turbo/unet"
    mapped = Source.open(variant_a.models).load_unet(tmp_path).state_dict()
    loaded = load_pretrained(folder, "UNet2DConditionModel", "fp16").state_dict()
    assert mapped.keys() == loaded.keys()
    assert all(torch.equal(mapped[key], loaded[key]) for key in loaded)
    assert {tensor.dtype for tensor in mapped.values()} == {torch.float32}
    assert len({tensor.untyped_storage().data_ptr() for tensor in mapped.values()}) == 1
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_another_scheduler(tree: Path) -> None:
    path = tree / "sdxl-turbo/scheduler/scheduler_config.json"
    config = {**json.loads(path.read_text()), "_class_name": "DDIMScheduler"}
    rewrite(path, lambda target: target.write_text(json.dumps(config)))
    fails(tree, "DDIMScheduler.*EulerAncestralDiscreteScheduler")


def test_impossible_options(tree: Path, tmp_path: Path) -> None:
    fails(tree, "names no component", UsageError, keep_fp32=("nose",))
    fails(tree, "can not be read", UsageError, licenses=tmp_path / "none.md")


def test_the_command_tells_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cradle2cane", str(tmp_path / "none"), str(tmp_path / "bundle")]) == 2
    told = capsys.readouterr().err
    assert "is not a model folder" in told and "Traceback" not in told
    assert not (tmp_path / "bundle").exists()


def test_hyperparameters_become_settings(variant_a: Variant, variant_b: Variant, tree: Path) -> None:
    from export.cradle2cane.command import make_settings

    a, b = variant_a.switch.settings, variant_b.switch.settings
    assert (a.adaptive_noise.t1, a.adaptive_noise.t2, a.rotate_clip, a.svr) == (5.0, 30.0, "angle", None)
    assert (b.adaptive_noise.t1, b.adaptive_noise.t2, b.rotate_clip) == (2.0, 19.0, "vector")
    assert b.svr is not None and (b.svr.alpha, b.svr.beta, b.svr.strengths) == (0.01, 1.1, ())
    assert a.clip_pixel_range == "0..1", "as in training, unless asked for"
    set_hparams(tree, use_four_image_swr=True, one_threshold=True, face_project_use_hidden_state=True)
    settings = make_settings(Source.open(tree), Options(tree, tree.parent / "bundle", text="graphs"))
    assert settings.svr is not None and settings.svr.strengths == (0.25, 0.5, 0.75)
    assert settings.adaptive_noise.mode == "one_threshold"
    assert settings.face_feature == "hidden_state"
    assert settings.ages is None and settings.text_encoders


def test_lora_behind_a_switch_and_merged_are_the_same(variant_a: Variant, tmp_path: Path) -> None:
    from export.cradle2cane import graphs, lora

    source = Source.open(variant_a.models)
    pairs = source.load_lora()
    switched, merged, plain = (source.load_unet(tmp_path) for _ in range(3))
    switch = lora.make_switched(switched, pairs)
    lora.merge(merged, pairs)
    make = {
        "switched": graphs.LifespanDenoise(switched, 512, 64, source.pooled_width, 2, switch),
        "merged": graphs.LifespanDenoise(merged, 512, 64, source.pooled_width, 2, None),
        "plain": graphs.LifespanDenoise(plain, 512, 64, source.pooled_width, 2, None),
    }
    inputs = make["switched"].draw({"batch": 2, "tokens": 2}, torch.Generator().manual_seed(1))
    inputs["lora_scale"] = torch.tensor([0.0, 1.0])
    without = {key: value for key, value in inputs.items() if key != "lora_scale"}
    with torch.no_grad():
        both = make["switched"](**inputs).numpy()
        np.testing.assert_allclose(both[0], make["plain"](**without)[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(both[1], make["merged"](**without)[1].numpy(), atol=1e-4)
    assert np.abs(both[1] - make["plain"](**without)[1].detach().numpy()).max() > 1e-2
