"""Bundles made to harm: each is refused with a BundleError before a graph is opened."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper

from agesdk import bundle as bundle_module
from agesdk.bundle import Bundle, manifest_from_json, write_manifest
from agesdk.errors import BundleError
from agesdk.onnx_external import external_locations
from tests import tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bundle.save(tmp_path / "bundle")


@pytest.mark.parametrize(
    "path",
    [
        "../outside.onnx",
        "components/../../outside.onnx",
        "/etc/passwd.onnx",
        "C:/windows/model.onnx",
        "..\\outside.onnx",
        "components//model.onnx",
        "./model.onnx",
        "components/./model.onnx",
        "model.onnx\u0000.txt",
        "model\n.onnx",
        "components/aux./model.onnx",
        "a" * 600 + ".onnx",
        "",
        "manifest.json",
        "MANIFEST.json",
        "~/../model.onnx?x",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(folder: Path, path: str) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][0]["path"] = path
    document["components"]["add"]["files"][0] = path
    with pytest.raises(
        BundleError, match=r"not a plain relative path|is the manifest itself|expected an .onnx"
    ):
        manifest_from_json(json.dumps(document))


def _symlinked_file(folder: Path) -> None:
    graph = folder / tiny_bundle.GRAPH
    graph.rename(folder.parent / "outside.onnx")
    graph.symlink_to(folder.parent / "outside.onnx")


def _symlinked_folder(folder: Path) -> None:
    (folder / "components").rename(folder.parent / "outside")
    (folder / "components").symlink_to(folder.parent / "outside", target_is_directory=True)


def _symlink_loop(folder: Path) -> None:
    (folder / tiny_bundle.DATA).unlink()
    (folder / tiny_bundle.DATA).symlink_to(folder / tiny_bundle.DATA)


def _fifo(folder: Path) -> None:
    (folder / tiny_bundle.DATA).unlink()
    os.mkfifo(folder / tiny_bundle.DATA)


def _directory(folder: Path) -> None:
    (folder / tiny_bundle.DATA).unlink()
    (folder / tiny_bundle.DATA).mkdir()


def _missing(folder: Path) -> None:
    (folder / tiny_bundle.DATA).unlink()


def _truncated(folder: Path) -> None:
    path = folder / tiny_bundle.DATA
    path.write_bytes(path.read_bytes()[:-1])


def _one_bit_changed(folder: Path) -> None:
    path = folder / tiny_bundle.DATA
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_symlinked_file, "leads out of the bundle"),
        (_symlinked_folder, "leads out of the bundle"),
        (_symlink_loop, "can not be read"),
        (_fifo, "not a regular file"),
        (_directory, "not a regular file"),
        (_missing, "can not be read"),
        (_truncated, "it was cut or altered"),
        (_one_bit_changed, "its SHA-256 is not the manifest's"),
    ],
)
def test_altered_files_are_refused(folder: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_link_inside_the_bundle_is_fine(folder: Path) -> None:
    graph = folder / tiny_bundle.GRAPH
    graph.rename(folder / "elsewhere.onnx")
    graph.symlink_to(folder / "elsewhere.onnx")
    Bundle.open(folder)


def test_containment_holds_without_verification(folder: Path) -> None:
    _symlinked_file(folder)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(folder, verify=False).component_path("add")


@pytest.mark.parametrize(
    "location", ["../../../secret.bin", "/etc/passwd", "other.data", "*/_ORT_MEM_ADDR_/*", "x\u0000", ""]
)
def test_weights_at_an_unlisted_location_are_refused_even_with_matching_hashes(
    tmp_path: Path, location: str
) -> None:
    folder = tiny_bundle.save(tmp_path / "bundle")
    tiny_bundle.save_graph(folder, location)
    with pytest.raises(BundleError, match="takes weights from"):
        write_manifest(folder, tiny_bundle.manifest())


def test_external_weights_are_found_wherever_a_graph_can_hold_them(tmp_path: Path) -> None:
    def tensor(name: str) -> TensorProto:
        result = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
        result.data_location = TensorProto.EXTERNAL
        result.external_data.add(key="offset", value="0")
        result.external_data.add(key="location", value=name)
        return result

    model = ModelProto()
    model.graph.initializer.append(tensor("initializer"))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor("sparse"))
    node = model.graph.node.add(op_type="If")
    node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor("attribute"))
    node.attribute.add(name="list", type=AttributeProto.TENSORS).tensors.append(tensor("attribute list"))
    branch = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g
    branch.node.add(op_type="Loop").attribute.add(type=AttributeProto.GRAPHS).graphs.add().initializer.append(
        tensor("nested")
    )
    model.functions.add(name="f").node.append(
        helper.make_node("Constant", [], ["c"], value=tensor("function"))
    )
    model.training_info.add().algorithm.initializer.append(tensor("training"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    expected = {"initializer", "sparse", "attribute", "attribute list", "nested", "function", "training"}
    assert external_locations(path) == expected


@pytest.mark.parametrize(
    "data",
    [
        *(b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b\x01", b"\x08", b"PK\x03\x04" * 9),
        b"\xba\x80\x80\x80\x10\x00",  # field 7, the graph, to readers that keep 32 bits of a key
        b"\x02\x00",  # field 0
    ],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        external_locations(tmp_path / "model.onnx")


def test_endlessly_nested_subgraphs_are_refused(tmp_path: Path) -> None:
    body = b"\x12\x08location"  # without this word nothing is walked
    for _ in range(200):  # graph -> node -> attribute -> graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            length = len(body)
            varint = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
            body = tag + varint + body
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body)
    with pytest.raises(BundleError, match="nested too deeply"):
        external_locations(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper"),
        ('{"schema": 1, "schema": 1}', "schema is written twice"),
        ('{"schema": NaN}', "contains NaN"),
        ('{"schema": -Infinity}', "contains -Infinity"),
        ('{"schema": 1e999}', "too large"),
        ('{"schema": ' + "9" * 5000 + "}", "too large"),
        ('{"schema": "\\ud800"}', "surrogate"),
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
    ],
)
def test_hostile_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        manifest_from_json(text)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe{}", "not UTF-8"), (b" " * (5 * 2**20), "the limit is")]
)
def test_a_manifest_that_is_no_text_or_too_long_is_refused(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def _object_array() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"input.x": np.array([{"a": 1}], dtype=object)})
    return buffer.getvalue()


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.x.npy", b"\x00" * 2**20)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [_object_array(), _bomb(), pickle.dumps({"a": 1}), b"", b"PK\x03\x04 not a zip"]
)
def test_tables_are_never_unpickled_nor_unpacked_beyond_the_limit(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "MAX_TABLE_BYTES", 2**19)
    (folder / "golden/add.npz").write_bytes(content)
    write_manifest(folder, tiny_bundle.manifest())
    with pytest.raises(BundleError):
        Bundle.open(folder).golden("add")
