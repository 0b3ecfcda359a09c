"""Model folders that are malformed: what is wrong is named with its file and tensor."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import modules as base
from sentence_transformers.sentence_transformer import modules as st

from simjax.errors import SimjaxError
from simjax.models import hf
from tests.models.edits import edit_json, edit_tensors, old_layout
from tests.tiny_models import WIDTH

ROW = 48


QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != QUERY},
            f"model.safetensors: tensor {QUERY} is missing",
        ),
        (
            lambda t: t.update({QUERY: t[QUERY][:-1]}),
            rf"tensor {QUERY} has shape \[31, 32\], but .*config.json asks for \[32, 32\]",
        ),
        (
            lambda t: t.update({QUERY: np.ones((WIDTH, WIDTH), np.int8)}),
            f"tensor {QUERY} is I8, not floating point",
        ),
        (
            lambda t: t.update({QUERY: np.full((WIDTH, WIDTH), np.nan, np.float32)}),
            f"tensor {QUERY} has values that are not finite",
        ),
        (
            lambda t: t.update({"encoder.layer.3.output.dense.bias": np.ones(2, np.float32)}),
            "tensor encoder.layer.3.output.dense.bias has no place in the model",
        ),
        (
            lambda t: t.update({"encoder.layer.0.attention.rotary": np.ones(2, np.float32)}),
            "tensor encoder.layer.0.attention.rotary has no place in the model",
        ),
        (lambda t: {"something": t[QUERY]}, "this is no bert encoder"),
    ],
)
def test_faulty_tensors(bert, change, message):
    edit_tensors(bert, change)
    with pytest.raises(SimjaxError, match=message):
        hf.load(bert)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "config.json: model_type 'gpt2' is not supported"),
        ({"model_type": None}, "config.json: model_type None is not supported"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map asks for code"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported"),
        ({"hidden_size": None}, "config.json: hidden_size is missing"),
        ({"hidden_size": "32"}, "config.json: hidden_size is '32', not a whole number"),
        ({"num_attention_heads": 5}, "config.json: encoder.hidden_size 32 is no multiple"),
        ({"layer_norm_eps": "tiny"}, "config.json: layer_norm_eps is 'tiny', not a number"),
        ({"num_hidden_layers": 4}, r"tensor encoder\.layer\.3\..* is missing"),
    ],
)
def test_faulty_configurations(bert, change, message):
    edit_json(bert / "config.json", lambda content: content.update(change))
    with pytest.raises(SimjaxError, match=message):
        hf.load(bert)


def test_missing_and_damaged_files(bert):
    (bert / "model.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(SimjaxError, match=r"model\.safetensors: cannot be read as safetensors"):
        hf.load(bert)
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(SimjaxError, match=r"pytorch_model\.bin: only safetensors are read"):
        hf.load(bert)
    (bert / "pytorch_model.bin").unlink()
    with pytest.raises(SimjaxError, match=r"model\.safetensors: no such file"):
        hf.load(bert)
    (bert / "config.json").write_text('{"model_type": "bert",\n oops}')
    with pytest.raises(SimjaxError, match=r"config\.json:2: is not JSON"):
        hf.load(bert)
    (bert / "config.json").write_text("[]")
    with pytest.raises(SimjaxError, match=r"config\.json: expected a JSON object"):
        hf.load(bert)
    (bert / "config.json").unlink()
    with pytest.raises(SimjaxError, match=r"config\.json: cannot be read"):
        hf.load(bert)


def module(path, kind, package="sentence_transformers.models"):
    return {"path": path, "type": f"{package}.{kind}"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.append(module("", "WordWeights")), "models.WordWeights is not supported"),
        (lambda m: m.append(module("", "Mine", "my_code")), "my_code.Mine is custom code"),
        (lambda m: m.pop(1), "models.Normalize is not supported here"),
        (lambda m: (m.pop(), m.pop()), "needs a Transformer and a Pooling module"),
        (lambda m: m.append(module("../..", "Dense")), "leaves the folder"),
        (lambda m: m.append(module("3_Dense", "Dense")), "Dense is not supported here"),
        (lambda m: m.append("Normalize"), "expected a list of modules"),
    ],
)
def test_faulty_modules(bert, edit, message):
    root = old_layout(bert)
    edit_json(root / "modules.json", edit)
    with pytest.raises(SimjaxError, match=message):
        hf.load(root)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("1_Pooling", {"pooling_mode_max_tokens": True}, r"pooling cls \+ max is not supported"),
        ("1_Pooling", {"pooling_mode": "median"}, "pooling median is not supported"),
        ("1_Pooling", {"include_prompt": False}, "include_prompt false is not supported"),
        ("2_Dense", {"activation_function": "my.Tanh"}, "activation_function my.Tanh"),
        ("2_Dense", {"activation_function": "torch.nn.GELU"}, "activation_function torch.nn.GELU"),
        ("2_Dense", {"use_residual": True}, "use_residual is not supported"),
        ("2_Dense", {"module_input_name": "x"}, "module_input_name 'x' is not supported"),
        ("2_Dense", {"out_features": None}, "out_features is None"),
        ("2_Dense", {"out_features": 9}, r"linear.weight has shape \[8, 32\], but .* \[9, 32\]"),
    ],
)
def test_faulty_settings_of_modules(folders, tmp_path, file, change, message):
    modules = [
        base.Transformer(str(folders["bert"])),
        st.Pooling(WIDTH, pooling_mode="cls"),
        base.Dense(WIDTH, 8),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    path = tmp_path / "model" / file / "config.json"

    def edit(content):
        if "pooling_mode_max_tokens" in change:
            del content["pooling_mode"]
            content["pooling_mode_cls_token"] = True
        content.update(change)

    edit_json(path, edit)
    with pytest.raises(SimjaxError, match=message):
        hf.load(tmp_path / "model")


def test_dense_modules_that_do_not_fit(folders, tmp_path):
    modules = [
        base.Transformer(str(folders["bert"])),
        st.Pooling(WIDTH, pooling_mode="cls"),
        base.Dense(WIDTH, 8),
        base.Dense(9, 4),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(SimjaxError, match="Dense module 2 takes 9 features and gets 8"):
        hf.load(tmp_path / "model")
