import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import yaml
from flax import nnx
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import modules as base
from sentence_transformers.sentence_transformer import modules as st
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertTokenizerFast,
    ModernBertConfig,
    ModernBertModel,
    RoFormerTokenizer,
)

from simjax import export
from simjax.data.engine import copy_engine, written
from simjax.errors import SimjaxError
from simjax.export import ModelCard
from simjax.models import hf
from simjax.models.config import EncoderConfig
from simjax.models.sentence_model import SentenceModel
from simjax.models.tokenizer import load_tokenizer
from simjax.processes import drafts
from simjax.sentence_encoder import SentenceEncoder
from tests.generate.writers import writer
from tests.tiny_models import SENTENCES, WIDTH, write_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return {family: write_folder(root / family, family) for family in ("bert", "roberta")}


def encoder_of(folder, pooling, *, normalize, training_head=True, max_length=40):
    loaded = hf.load(folder, pooling=pooling)
    return SentenceEncoder(
        loaded.model,
        load_tokenizer(folder),
        normalize=normalize,
        max_length=max_length,
        prompts={"query": "find: "},
        training_head=training_head,
    )


def by_hand(folder, encoder):
    """transformers' encoder, and the pooling written out."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    assert encoded["input_ids"].shape[1] == 40  # the tokenizer knows the length
    with torch.no_grad():
        output = model(**encoded, output_hidden_states=True)
    mask = encoded["attention_mask"][..., None].float()

    def mean(hidden):
        return (hidden * mask).sum(1) / mask.sum(1)

    states = output.hidden_states
    pooling, last, lengths = encoder.model.pooling, states[-1], mask.sum(1)
    places = torch.arange(1.0, mask.shape[1] + 1)[None, :, None] * mask
    x = {
        "mean": mean(last),
        "mean_sqrt_length": (last * mask).sum(1) / lengths.sqrt(),
        "first_last_mean": (mean(states[1]) + mean(last)) / 2,
        "top2_mean": (mean(states[-2]) + mean(last)) / 2,
        "weighted_mean": (last * places).sum(1) / places.sum(1),
        "max": last.masked_fill(mask == 0, -1e9).max(1).values,
        "last_token": last[torch.arange(len(last)), lengths[:, 0].long() - 1],
    }.get(pooling, last[:, 0])
    if pooling in ("cls_mlp", "cls_linear") and (encoder.training_head or pooling == "cls_linear"):
        kernel, bias = (np.array(encoder.params["pooler"][k]) for k in ("kernel", "bias"))
        x = x @ torch.from_numpy(kernel) + torch.from_numpy(bias)
        x = torch.tanh(x) if pooling == "cls_mlp" else x
    return (torch.nn.functional.normalize(x) if encoder.normalize else x).numpy()


CASES = [
    ("bert", "mean", True, True),
    ("bert", "mean", False, True),
    ("bert", "cls", True, True),
    ("bert", "cls_mlp", True, True),
    ("bert", "cls_mlp", True, False),
    ("bert", "cls_linear", False, True),
    ("bert", "first_last_mean", True, True),
    ("bert", "top2_mean", True, True),
    ("bert", "mean_sqrt_length", False, True),
    ("bert", "weighted_mean", False, True),
    ("bert", "max", False, True),
    ("bert", "last_token", False, True),
    ("roberta", "mean", False, True),
    ("roberta", "cls", True, True),
    ("roberta", "cls_mlp", False, True),
    ("roberta", "first_last_mean", False, True),
]


def test_special_tokens_of_a_modernbert_are_its_tokenizers(folders, tmp_path):
    """transformers warns of those that are beyond the vocabulary, as its own defaults are."""
    tokenizer = load_tokenizer(folders["bert"])
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    ModernBertModel(
        ModernBertConfig(
            **shape,
            vocab_size=len(tokenizer),
            num_hidden_layers=1,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
        )
    ).save_pretrained(tmp_path / "peer")
    tokenizer.save_pretrained(tmp_path / "peer")
    SentenceEncoder.from_pretrained(tmp_path / "peer").save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert [config[f"{name}_token_id"] for name in ("bos", "cls")] == [first, first]
    assert [config[f"{name}_token_id"] for name in ("eos", "sep")] == [last, last]
    AutoModel.from_pretrained(tmp_path / "ours")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("family", "pooling", "normalize", "head"), CASES)
def test_others_give_our_embeddings(folders, tmp_path, family, pooling, normalize, head):
    encoder = encoder_of(folders[family], pooling, normalize=normalize, training_head=head)
    ours = encoder.encode(SENTENCES)
    assert np.abs(ours[0] - ours[1]).max() > 0.01
    folder = encoder.save_pretrained(tmp_path / "model")

    peer = SentenceTransformer(str(folder), device="cpu")
    assert peer.max_seq_length == 40
    assert peer.get_embedding_dimension() == WIDTH
    assert peer.prompts["query"] == "find: "
    np.testing.assert_allclose(peer.encode(SENTENCES), ours, atol=1e-5)
    np.testing.assert_allclose(by_hand(folder, encoder), ours, atol=1e-5)

    names = [type(module).__name__ for module in peer]
    dense = pooling == "cls_linear" or (pooling == "cls_mlp" and head)
    assert ("Dense" in names) == dense
    assert ("Normalize" in names) == normalize

    again = SentenceEncoder.from_pretrained(folder)
    assert (again.normalize, again.max_length) == (normalize, 40)
    assert again.prompts == {"query": "find: "}
    np.testing.assert_allclose(again.encode(SENTENCES), ours, atol=1e-6)


def test_a_loaded_export_can_be_exported(folders, tmp_path):
    encoder = encoder_of(folders["bert"], "cls_mlp", normalize=True)
    first = SentenceEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "first"))
    # Here the head is a module like any other.
    second = SentenceEncoder.from_pretrained(first.save_pretrained(tmp_path / "second"))
    np.testing.assert_allclose(second.encode(SENTENCES), encoder.encode(SENTENCES), atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "dense", "normalize"),
    [
        ("mean", None, True),
        ("cls", None, False),
        ("mean", {"activation_function": torch.nn.Identity(), "bias": False}, True),
        ("cls", {}, False),
        ("max", None, False),
        ("lasttoken", None, True),
    ],
)
def test_folders_written_by_sentence_transformers_load(
    folders, tmp_path, pooling, dense, normalize
):
    torch.manual_seed(1)
    modules = [
        base.Transformer(str(folders["bert"]), max_seq_length=30),
        st.Pooling(WIDTH, pooling),
    ]
    if dense is not None:
        modules.append(base.Dense(WIDTH, 12, **dense))
    if normalize:
        modules.append(base.Normalize())
    peer = SentenceTransformer(modules=modules, prompts={"query": "the: "}, device="cpu")
    peer.save(str(tmp_path / "peer"))
    ours = SentenceEncoder.from_pretrained(tmp_path / "peer")
    assert (ours.normalize, ours.max_length) == (normalize, 30)
    expected = peer.encode(SENTENCES)
    np.testing.assert_allclose(ours.encode(SENTENCES), expected, atol=1e-5)
    np.testing.assert_allclose(
        ours.encode(SENTENCES, prompt="query"),
        peer.encode(SENTENCES, prompt_name="query"),
        atol=1e-5,
    )
    # Saved by us, sentence-transformers reads its own model back.
    back = SentenceTransformer(str(ours.save_pretrained(tmp_path / "ours")), device="cpu")
    np.testing.assert_allclose(back.encode(SENTENCES), expected, atol=1e-5)


def test_files_and_their_contents(folders, tmp_path):
    encoder = encoder_of(folders["bert"], "cls_mlp", normalize=True)
    card = ModelCard(
        name="Tiny",
        base_model="google-bert/bert-base-uncased",
        recipe={"objective": {"loss": "infonce", "temperature": 0.05}},
        scores={"stsb-dev/spearman": 81.234, "broken": float("nan")},
        language=("en",),
        license="apache-2.0",
    )
    folder = encoder.save_pretrained(tmp_path / "deep" / "model", card=card)
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "README.md",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing partial is left
    readme = (folder / "README.md").read_text()
    header = yaml.safe_load(readme.split("---")[1])
    assert header["library_name"] == "sentence-transformers"
    assert header["base_model"] == "google-bert/bert-base-uncased"
    assert {"sentence-transformers", "simjax"} <= set(header["tags"])
    assert "| stsb-dev/spearman | 81.23 |" in readme and "temperature: 0.05" in readme
    assert "nan" not in readme
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["padding"] is None and tokenizer["truncation"] is None
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 40
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert str(folders["bert"]).encode() not in path.read_bytes(), path


def test_the_tokenizer_given_is_left_alone(folders, tmp_path):
    encoder = encoder_of(folders["bert"], "mean", normalize=True)
    before = encoder.tokenizer.model_max_length, encoder.tokenizer.backend_tokenizer.to_str()
    encoder.tokenizer.backend_tokenizer.enable_truncation(7)
    encoder.tokenizer.backend_tokenizer.enable_padding()
    encoder.save_pretrained(tmp_path / "model")
    assert encoder.tokenizer.backend_tokenizer.truncation["max_length"] == 7
    assert encoder.tokenizer.model_max_length == before[0]
    saved = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    assert saved["padding"] is None and saved["truncation"] is None


def test_what_lies_there_is_kept(folders, tmp_path):
    encoder = encoder_of(folders["bert"], "mean", normalize=True)
    target = tmp_path / "model"
    target.mkdir()
    encoder.save_pretrained(target)  # an empty folder is fine
    with pytest.raises(SimjaxError, match="is not empty"):
        encoder.save_pretrained(target)
    (target / "extra.txt").write_text("of an older version")
    encoder.save_pretrained(target, overwrite=True)
    assert not (target / "extra.txt").exists()

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(SimjaxError, match="choose another"):
            encoder.save_pretrained(other, overwrite=overwrite)
    with pytest.raises(SimjaxError, match="is a file"):
        encoder.save_pretrained(other / "chapter.txt", overwrite=True)
    assert (other / "chapter.txt").read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"model", "thesis"}


def test_a_failed_export_leaves_the_old_one(folders, tmp_path, monkeypatch):
    encoder = encoder_of(folders["bert"], "mean", normalize=True)
    target = encoder.save_pretrained(tmp_path / "model")
    before = (target / "model.safetensors").read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(SimjaxError, match=r"model: cannot be written \(No space left"):
        encoder.save_pretrained(target, overwrite=True)
    monkeypatch.undo()
    replace = os.replace

    def second_fails(source, destination):
        if Path(destination) == target and ".partial" in str(source):
            raise OSError(5, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(SimjaxError, match="Input/output error"):
        encoder.save_pretrained(target, overwrite=True)
    assert (target / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_export_clears_up_after_one_that_was_killed(folders, tmp_path):
    encoder = encoder_of(folders["bert"], "mean", normalize=True)
    target = encoder.save_pretrained(tmp_path / "model")
    before = (target / "model.safetensors").read_bytes()
    left = drafts.draft_of(target)
    left.mkdir()
    target.rename(left.with_name(left.name.replace("partial", "old")))
    with pytest.raises(SimjaxError, match="is not empty"):
        encoder.save_pretrained(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "model.safetensors").read_bytes() == before


def test_an_export_to_a_url_is_the_same_folder_there(tmp_path):
    encoder = writer()
    here = encoder.save_pretrained(tmp_path / "model")
    encoder.save_pretrained("memory://bucket/model", overwrite=True)
    filesystem = fsspec.filesystem("memory")
    there = {path.removeprefix("/bucket/model/") for path in filesystem.find("/bucket/model")}
    files = [path for path in here.rglob("*") if path.is_file()]
    assert there == {path.relative_to(here).as_posix() for path in files}
    for path in files:
        found = filesystem.cat_file(f"/bucket/model/{path.relative_to(here).as_posix()}")
        assert found == path.read_bytes(), path
    assert "decoder/model.safetensors" in there
    with pytest.raises(SimjaxError, match=r"^memory://bucket/model: is not empty"):
        encoder.save_pretrained(Path("memory://bucket/model"))


def test_a_tokenizer_that_splits_chinese_words(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我爱北京天安门", "北京", "天安门"]
    tokenizer = RoFormerTokenizer(vocab={token: number for number, token in enumerate(tokens)})
    config = EncoderConfig("roformer", len(tokens), 16, 1, 2, 32, 64)
    encoder = SentenceEncoder(SentenceModel(config, "mean", rngs=nnx.Rngs(0)), tokenizer)
    text = "我爱北京天安门"
    expected = encoder.encode(text)
    encoder.save_pretrained(tmp_path / "folder")
    assert encoder.encode(text).tolist() == expected.tolist()
    again = SentenceEncoder.from_pretrained(tmp_path / "folder")
    np.testing.assert_allclose(again.encode(text), expected, atol=1e-6)
    assert written(copy_engine(again.tokenizer)) == written(copy_engine(tokenizer))
    characters = BertTokenizerFast(vocab=tokenizer.get_vocab())
    other = SentenceEncoder(encoder.model, characters)
    assert np.abs(other.encode(text) - expected).max() > 1e-3
    assert other.fingerprint() != encoder.fingerprint()
    peer = SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    np.testing.assert_allclose(peer.encode(text), expected, atol=1e-5)
