"""Settings and tensor files of any content: a model, or one line that names the file."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simjax.errors import SimjaxError
from simjax.models import hf

on_files = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=settings.default.max_examples // 4,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "initializer_range",
    "pad_token_id",
    "is_decoder",
    "position_embedding_type",
    "auto_map",
)


def loaded_or_refused(folder: Path) -> None:
    try:
        hf.load(folder)
    except SimjaxError as error:
        assert str(folder) in str(error) and len(str(error).splitlines()) == 1


def copy(bert: Path, to: Path) -> Path:
    if not to.exists():
        shutil.copytree(bert, to)
    return to


@on_files
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=2))
def test_any_settings(folders, tmp_path, changes):
    folder = copy(folders["bert"], tmp_path / "bert")
    content = json.loads((folders["bert"] / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))
    loaded_or_refused(folder)


modules = st.lists(
    st.fixed_dictionaries(
        {
            "path": values | st.sampled_from(["", "1_Pooling", "..", "2_Dense"]),
            "type": st.sampled_from(
                [
                    f"sentence_transformers.models.{kind}"
                    for kind in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout", "")
                ]
            )
            | values,
        }
    )
    | values,
    max_size=3,
)


@on_files
@given(modules | values, values)
def test_any_modules(folders, tmp_path, listed, pooling):
    folder = copy(folders["bert"], tmp_path / "bert")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(listed))
    loaded_or_refused(folder)


def objects(*keys: str) -> st.SearchStrategy[object]:
    return st.dictionaries(st.sampled_from(keys), values | st.lists(values, max_size=1)) | values


@on_files
@given(
    objects("pooling_mode", "pooling_mode_cls_token", "pooling_mode_mean_tokens", "include_prompt"),
    objects("prompts", "default_prompt_name", "flow"),
)
def test_any_pooling_and_use(folders, tmp_path, pooling, use):
    folder = copy(folders["bert"], tmp_path / "bert")
    package = "sentence_transformers.models."
    listed = [
        {"path": "", "type": f"{package}Transformer"},
        {"path": "1_Pooling", "type": f"{package}Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(use))
    loaded_or_refused(folder)


@on_files
@given(
    st.sampled_from(["sentence_bert_config.json", "tokenizer_config.json"]),
    st.dictionaries(
        st.sampled_from(["max_seq_length", "do_lower_case", "model_max_length"]), values
    )
    | values,
)
def test_any_lengths(folders, tmp_path, name, content):
    folder = copy(folders["bert"], tmp_path / "bert")
    (folder / name).write_text(json.dumps(content))
    loaded_or_refused(folder)


offsets = st.lists(st.integers(-(2**65), 2**65) | st.integers(0, 64), min_size=2, max_size=2)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F99", "BOOL"]) | values,
        "shape": st.lists(st.integers(-2, 2**64), max_size=3) | values,
        "data_offsets": offsets | values,
    }
)
headers = st.dictionaries(
    st.sampled_from(["embeddings.word_embeddings.weight", "a", "__metadata__", ""]),
    entries | values,
)


@on_files
@given(headers.map(json.dumps) | st.text(max_size=20), st.integers(-9, 9), st.binary(max_size=64))
def test_any_tensor_file(folders, tmp_path, header, wrong, data):
    folder = copy(folders["bert"], tmp_path / "bert")
    text = header.encode(errors="replace")
    length = struct.pack("<Q", max(0, len(text) + wrong))
    (folder / "model.safetensors").write_bytes(length + text + data)
    loaded_or_refused(folder)
