"""Model folders made to do harm: refused before anything of them is opened, parsed or followed."""

import json
import os
import shutil
import socket
import struct

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file

from simjax.errors import SimjaxError
from simjax.models import hf
from simjax.models.model_files import SETTINGS_BYTES, VOCABULARY_BYTES
from simjax.models.tokenizer import load_tokenizer
from simjax.sentence_encoder import SentenceEncoder
from tests.models.edits import edit_json, old_layout


def refusal(folder, loader=hf.load):
    with pytest.raises(SimjaxError) as caught:
        loader(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Tensor files that lie

FLOATS = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def tensor_file(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.safetensors: cannot be read as safetensors (a header of"),
        (b"\x10\0\0", "cannot be read as safetensors"),
        (tensor_file({"a": FLOATS}, length=1 << 63), "header of 9,223,372,036,854,775,808 bytes"),
        (tensor_file({"a": FLOATS}, length=200), "a header of 200 bytes in a file of"),
        (tensor_file({"a": FLOATS | {"data_offsets": [0, 1 << 40]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"data_offsets": [16, 0]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"data_offsets": [-16, 0]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"data_offsets": [8, 24]}}, bytes(24)), "cannot be read"),
        (tensor_file({"a": FLOATS, "b": FLOATS}), "cannot be read"),  # one over the other
        (tensor_file({"a": FLOATS}, bytes(64)), "cannot be read"),  # a hidden payload at the end
        (tensor_file({"a": FLOATS | {"shape": [4, 4]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"shape": [1 << 33, 1 << 33]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"shape": [-2, -2]}}), "cannot be read"),
        (tensor_file({"a": FLOATS | {"dtype": "X9"}}), "cannot be read"),
        (tensor_file(b"[" * 9000), "cannot be read"),
        (tensor_file(b'{"a":' * 9000), "cannot be read"),
        (tensor_file(b'{"a": 1'), "cannot be read"),
        (tensor_file(b"\xff\xfe"), "cannot be read"),
        (b"PK\x03\x04" + bytes(99), "is a zip archive, not safetensors"),
        (b"\x1f\x8b" + bytes(99), "is gzip, not safetensors"),
        (b"\x80\x02}q\x00." + bytes(99), "is a pickle, not safetensors"),
    ],
)
def test_tensor_files_that_lie_about_themselves(bert, content, message):
    (bert / "model.safetensors").write_bytes(content)
    said = refusal(bert)
    assert message in said and str(bert / "model.safetensors") in said


def test_a_huge_header_is_not_read(bert):
    with (bert / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", SETTINGS_BYTES + 1))
        file.truncate(1 << 30)
    assert "has a header of 16,777,217 bytes" in refusal(bert)


# Settings that are too much


@pytest.mark.parametrize("name", ["config.json", "modules.json", "sentence_bert_config.json"])
def test_a_gigabyte_of_settings_is_not_read(bert, name):
    with (bert / name).open("wb") as file:
        file.truncate(1 << 30)
    assert f"{bert / name}: has 1,073,741,824 bytes" in refusal(bert)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "added_tokens.json"])
def test_a_gigabyte_of_vocabulary_is_not_read(bert, name):
    with (bert / name).open("wb") as file:
        file.truncate(1 << 30)
    said = refusal(bert, load_tokenizer)
    assert f"{bert / name}: has 1,073,741,824 bytes" in said and f"{VOCABULARY_BYTES:,}" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (f'{{"hidden_size": {"9" * 5000}}}', "config.json: is not JSON that can be read"),
    ],
)
def test_settings_that_exhaust_the_parser(bert, content, message):
    (bert / "config.json").write_text(content)
    assert message in refusal(bert)


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
@pytest.mark.parametrize("size", [4 * 10**9, 4 * 10**30])
def test_a_model_that_no_memory_holds(bert, key, size):
    edit_json(bert / "config.json", lambda content: content.update({key: size}))
    said = refusal(bert)
    assert "tensor" in said and "model.safetensors" in said


# Names and links that lead elsewhere


@pytest.mark.parametrize("path", ["..", "../bert", "/etc", "1_Pooling/../../..", "a\0b", 5])
def test_modules_elsewhere(bert, path):
    root = old_layout(bert)
    edit_json(root / "modules.json", lambda modules: modules[0].update(path=path))
    assert f"{root / 'modules.json'}: module path" in refusal(root)


@pytest.mark.parametrize(
    "part", ["../stolen.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\0b", 7, None]
)
def test_parts_elsewhere(bert, part):
    (bert / "model.safetensors").rename(bert.parent / "stolen.safetensors")
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": part}}))
    said = refusal(bert)
    assert f"{index}: tensor x is said to be in {part!r}" in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder(bert, tmp_path, name):
    (bert / name).rename(tmp_path / "elsewhere")
    (bert / name).symlink_to("../elsewhere")
    said = refusal(bert)
    assert f"{bert / name}: a link that leads out of its folder, to {tmp_path}/elsewhere" in said


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_links_of_a_tokenizer_out_of_the_folder(bert, tmp_path, name):
    (bert / name).rename(tmp_path / "elsewhere")
    (bert / name).symlink_to(tmp_path / "elsewhere")
    assert f"{bert / name}: a link that leads out" in refusal(bert, load_tokenizer)


def test_a_folder_of_a_module_that_is_a_link(bert, tmp_path):
    root = old_layout(bert)
    (root / "1_Pooling").rename(tmp_path / "elsewhere")
    (root / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    assert "module path '1_Pooling' leaves the folder" in refusal(root)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "model.safetensors"])
def test_links_to_nothing_and_in_a_circle_and_pipes(bert, name):
    (bert / name).unlink(missing_ok=True)
    (bert / name).symlink_to("nothing")
    assert f"{bert / name}: cannot be read" in refusal(bert)
    (bert / name).unlink()
    (bert / name).symlink_to(name)
    assert f"{bert / name}: cannot be read" in refusal(bert)
    (bert / name).unlink()
    os.mkfifo(bert / name)  # reading would wait for ever
    assert f"{bert / name}: cannot be read (no plain file)" in refusal(bert)


def test_links_within_the_folder_and_to_the_folder_are_followed(bert, tmp_path):
    (bert / "model.safetensors").rename(bert / "weights")
    (bert / "model.safetensors").symlink_to("weights")
    (tmp_path / "name").symlink_to(bert)
    hf.load(tmp_path / "name")


def cached(folder, cache):
    """The folder as huggingface_hub keeps one: blobs by their sum, and links to them."""
    home = cache / "models--someone--model"
    snapshot = home / "snapshots" / ("0" * 40)
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob, link = home / "blobs" / f"{number:040x}", snapshot / path.relative_to(folder)
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_copies_in_the_cache_of_the_hub_load(bert, tmp_path):
    root = old_layout(bert)
    snapshot = cached(root, tmp_path / "hub")
    loaded = hf.load(snapshot)
    assert loaded.normalize and loaded.max_length == 18
    assert load_tokenizer(snapshot).get_vocab() == load_tokenizer(root).get_vocab()
    # The transformer by itself, which lies deeper than the blobs' neighbour.
    hf.load(snapshot / "0_Transformer")
    # Another model's blobs are not this one's.
    config = snapshot / "0_Transformer" / "config.json"
    other = tmp_path / "hub" / "models--someone--else" / "blobs"
    other.mkdir(parents=True)
    shutil.copy(config, other / "1")
    config.unlink()
    config.symlink_to(other / "1")
    assert "a link that leads out of its folder" in refusal(snapshot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_inputs": ["/etc/passwd"]}, "init_inputs are not supported"),
        ({"fast_tokenizer_files": ["../tokenizer.4.0.json"]}, "names of files that lie beside it"),
        ({"fast_tokenizer_files": "../tokenizer.4.0.json"}, "names of files that lie beside it"),
    ],
)
def test_settings_of_a_tokenizer_that_name_files(bert, change, message):
    edit_json(bert / "tokenizer_config.json", lambda content: content.update(change))
    said = refusal(bert, load_tokenizer)
    assert message in said and "tokenizer_config.json" in said


def test_a_tokenizer_file_elsewhere_is_not_read(bert, tmp_path):
    own = load_tokenizer(bert).get_vocab()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nstolen\n")
    stolen = {"vocab_file": str(tmp_path / "vocab.txt"), "tokenizer_file": "/etc/passwd"}
    edit_json(bert / "tokenizer_config.json", lambda content: content.update(stolen))
    assert load_tokenizer(bert).get_vocab() == own


# Archives, and the network


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz", "model.7z"])
def test_archives_are_not_models(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    said = refusal(tmp_path / name, hf.resolve)
    assert (
        said
        == f"{tmp_path / name}: is an archive; unpack it and give the model's folder or a"
        + (" hub id")
    )


def test_a_folder_that_holds_an_archive(bert):
    (bert / "model.safetensors").rename(bert / "model.tar.gz")
    assert "the folder holds no weights; unpack model.tar.gz first" in refusal(bert)


@pytest.fixture
def online(monkeypatch):
    """As without HF_HUB_OFFLINE; every use of the network is noted and fails."""
    tried = []

    def refuse(*args, **_):
        tried.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def test_a_folder_needs_no_network(folders, bert, online):
    encoder = SentenceEncoder.from_pretrained(bert)
    assert np.isfinite(encoder.encode(["the cat", ""])).all()
    assert load_file(bert / "model.safetensors")
    for name in ("./nowhere", str(bert / "nowhere"), "a/b/c"):
        with pytest.raises(SimjaxError, match="no such folder"):
            hf.resolve(name)
    assert online == []


def test_only_a_hub_id_asks_the_network(online, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "no/such-model" in refusal("no/such-model", hf.resolve)
    assert online  # the trap works
    online.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = refusal("no/such-model", hf.resolve)
    assert "HF_HUB_OFFLINE" in said
    assert online == []
