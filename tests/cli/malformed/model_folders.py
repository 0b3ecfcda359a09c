"""Model folders that `simjax encode` refuses, and tokenizers that do not fit their weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.cli.malformed.rows import Row, write

QUERY = "encoder.layer.0.attention.self.query.weight"
"""A tensor of the encoder, 16 x 16."""

Change = Callable[[Any], Any]


def model(name: str, damage: Callable[[Path], object], *says: str) -> Row:
    """A folder that is damaged."""

    def make(folder: Path) -> list[str]:
        damage(folder / "model")
        texts = write(folder / "texts.txt", "a dog\n")
        return ["encode", str(folder / "model"), str(texts), str(folder / "out.npy")]

    return Row(f"model: {name}", make, says)


def file(name: str, path: str, content: str | bytes, *says: str) -> Row:
    """A folder, one of whose files is of that content."""
    return model(name, lambda folder: write(folder / path, content), *says)


def settings(name: str, path: str, *says: str, **changes: object) -> Row:
    """A folder, one of whose JSON files has those values."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(content | changes))

    return model(name, damage, *says)


def config(name: str, *says: str, **changes: object) -> Row:
    return settings(name, "config.json", "{}/model/config.json: ", *says, **changes)


def tensors(name: str, change: Change, *says: str) -> Row:
    """A folder whose tensors are changed."""

    def damage(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        changed = change(found)
        save_file(found if changed is None else changed, folder / "model.safetensors")

    return model(name, damage, "{}/model/model.safetensors: ", *says)


def put(value: np.ndarray, name: str = QUERY) -> Change:
    return lambda found: found.update({name: value})


def vocabulary(name: str, change: Change, *says: str) -> Row:
    """A folder whose `tokenizer.json` is changed."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return model(name, damage, "{}/model: ", *says)


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)


def zip_instead(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def modules(*kinds: str) -> str:
    package = "sentence_transformers.models."
    return json.dumps(
        [{"path": "", "type": kind if "!" in kind else package + kind} for kind in kinds]
    )


def smaller(content: Any) -> None:
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {token: i for token, i in vocab.items() if i < len(vocab) // 2}


def larger(content: Any) -> None:
    content["model"]["vocab"]["beyond"] = 5000


def without_first(content: Any) -> None:
    del content["model"]["vocab"]["[CLS]"]
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "[CLS]"]


def with_use(use: str, pooling: str = "{}") -> Callable[[Path], None]:
    """What is beside the modules: how they are used, and how tokens are pooled."""

    def damage(folder: Path) -> None:
        content = json.loads(modules("Transformer", "Pooling"))
        content[1]["path"] = "1_Pooling"
        write(folder / "modules.json", json.dumps(content))
        write(folder / "1_Pooling" / "config.json", pooling)
        write(folder / "config_sentence_transformers.json", use)

    return damage


def flow(name: str, *says: str, tensors: Change | None = None, **changes: object) -> Row:
    """A folder with a flow whose settings or tensors are changed."""

    def damage(folder: Path) -> None:
        from simjax.postprocess.flow import FlowConfig

        write(folder / "modules.json", modules("Transformer", "Pooling"))
        write(folder / "config_sentence_transformers.json", '{"flow": "flow"}')
        shape = {"width": 16, "rank": 15, "depth": 2, "hidden": 4, "coupling": "affine"}
        shapes = FlowConfig(**shape).shapes()
        found = {key: np.zeros(size, np.float32) for key, size in shapes.items()}
        found["permutation"] = np.tile(np.arange(15, dtype=np.int32), (2, 1))
        if tensors is not None:
            tensors(found)
        write(folder / "flow" / "config.json", json.dumps(shape | changes))
        save_file(found, folder / "flow" / "model.safetensors")

    return model(f"a flow {name}", damage, "{}/model/flow/", *says)


def with_a_flow(place: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        write(folder / "modules.json", modules("Transformer", "Pooling"))
        write(folder / "config_sentence_transformers.json", json.dumps({"flow": place}))

    return damage


def twice(found: Any) -> None:
    found["permutation"][1, 3] = 2


def beyond(found: Any) -> None:
    found["permutation"][0, 3] = 15


NAN = np.full((16, 16), np.nan, np.float32)
ONES = np.ones((16, 16), np.float32)

ROWS = [
    model(
        "absent", lambda folder: folder.rename(folder.with_name("x")), "{}/model: no such folder"
    ),
    model(
        "no settings", lambda folder: (folder / "config.json").unlink(), "config.json: cannot be"
    ),
    model("no weights", lambda folder: (folder / "model.safetensors").unlink(), ": no such file"),
    model("a pickle for weights", zip_instead, "pytorch_model.bin: only safetensors are read"),
    file("cut weights", "model.safetensors", b"\x10\0\0", "model.safetensors: cannot be read as"),
    file("a zip archive for weights", "model.safetensors", b"PK\x03\x04" * 9, "is a zip archive"),
    file("torn settings", "config.json", '{"a": 1,\n', "{}/model/config.json:2: is not JSON"),
    file("settings that are no object", "config.json", "[]", "expected a JSON object, found list"),
    file("empty settings", "config.json", "", "{}/model/config.json:1: is not JSON"),
    file("settings not UTF-8", "config.json", b"\xff", "{}/model/config.json: is not UTF-8"),
    file("settings nested too deeply", "config.json", "[" * 9999, "config.json: is not JSON that"),
    config("another family", "model_type 'gpt2' is not supported", model_type="gpt2"),
    config("no family", "model_type None is not supported", model_type=None),
    config("a list for the family", "model_type", model_type=["bert"]),
    config("code of its own", "auto_map asks for code", auto_map={"AutoModel": "x.Y"}),
    config("no width", "hidden_size is missing", hidden_size=None),
    config("a word for the width", "hidden_size is '16', not a whole", hidden_size="16"),
    config("heads that do not divide", "hidden_size 16 is no multiple", num_attention_heads=5),
    config("a width below 0", "encoder.hidden_size must be at least 1", hidden_size=-16),
    config("no layers", "encoder.num_layers must be at least 1", num_hidden_layers=0),
    config("an unknown activation", "hidden_act 'mish' is not supported", hidden_act="mish"),
    config("a list for the activation", "hidden_act", hidden_act=["gelu"]),
    config(
        "a word for a rate", "hidden_dropout_prob is 'x', not a number", hidden_dropout_prob="x"
    ),
    config("a rate above 1", "dropout", hidden_dropout_prob=1.5),
    config("a rate that is no number", "dropout", hidden_dropout_prob=float("nan")),
    config("an epsilon that is no number", "layer_norm_eps", layer_norm_eps=float("nan")),
    config("an epsilon below 0", "layer_norm_eps", layer_norm_eps=-1.0),
    config("a padding id beyond the table", "pad_token_id", pad_token_id=10**6),
    settings(
        "more layers than tensors",
        "config.json",
        "tensor encoder.layer.1.",
        "is missing",
        num_hidden_layers=2,
    ),
    settings(
        "a wider model than its tensors", "config.json", "has shape", "asks for [", hidden_size=32
    ),
    tensors(
        "a missing tensor",
        lambda found: {k: v for k, v in found.items() if k != QUERY},
        f"tensor {QUERY} is missing",
    ),
    tensors("a tensor too many", put(ONES, "encoder.layer.7.x"), "tensor encoder.layer.7.x has no"),
    tensors("a mis-shaped tensor", put(ONES[:8]), f"tensor {QUERY} has shape [8, 16]", "[16, 16]"),
    tensors("a flat tensor", put(ONES.reshape(-1)), f"tensor {QUERY} has shape [256]"),
    tensors("whole numbers", put(ONES.astype(np.int8)), f"tensor {QUERY} is I8, not floating"),
    tensors("truth values", put(ONES.astype(bool)), f"tensor {QUERY} is BOOL, not floating"),
    tensors("not a number", put(NAN), f"tensor {QUERY} has values that are not finite"),
    tensors("infinity", put(ONES * np.inf), f"tensor {QUERY} has values that are not finite"),
    tensors("float64 beyond float32", put(ONES.astype(np.float64) * 1e300), "not finite"),
    tensors("another model's tensors", lambda found: {"w": ONES}, "this is no bert encoder"),
    tensors("no tensors at all", lambda found: {}, "this is no bert encoder"),
    file("modules that are no list", "modules.json", "{}", "modules.json: expected a list"),
    file("modules without a type", "modules.json", '[{"path": ""}]', "modules.json: expected a"),
    file(
        "a module of its own code", "modules.json", modules("my.code.Mine!"), "custom code, which"
    ),
    file("an unknown module", "modules.json", modules("WordWeights"), "WordWeights is not supp"),
    file("no pooling", "modules.json", modules("Transformer"), "needs a Transformer and a Pooling"),
    file(
        "no length", "sentence_bert_config.json", '{"max_seq_length": 0}', "length 0 is not a pos"
    ),
    model(
        "prompts that are no texts",
        with_use('{"prompts": [1]}'),
        "config_sentence_transformers.json: prompts must map names to texts",
    ),
    model(
        "a list for the default prompt",
        with_use('{"prompts": {"x": "y"}, "default_prompt_name": ["x"]}'),
        "config_sentence_transformers.json: default_prompt_name ['x'] is not among its prompts",
    ),
    model(
        "an object for the pooling",
        with_use("{}", '{"pooling_mode": {"a": 1}}'),
        "1_Pooling/config.json: pooling {'a': 1} is not supported; one of cls, ",
    ),
    model(
        "a list in a list for the pooling",
        with_use("{}", '{"pooling_mode": [["cls"]]}'),
        "1_Pooling/config.json: pooling ['cls'] is not supported; one of cls, ",
    ),
    model("a flow that is not there", with_a_flow("flow"), "transformers.json: flow is 'flow',"),
    model("a flow elsewhere", with_a_flow("../flow"), "path '../flow' leaves the folder"),
    flow("behind other vectors", "config.json: a flow over 24 dimensions, behind 16", width=24),
    flow("without a depth", "config.json: depth is None, not a whole number", depth=None),
    flow("of a depth that is a word", "config.json: depth is '2', not a whole", depth="2"),
    flow("of no depth", "config.json: flow depth 0: must be at least 1", depth=0),
    flow("of a depth that no memory holds", "has shape [2, 15]", "asks for", depth=4 * 10**30),
    flow("of more directions than dimensions", "config.json: flow rank 17: vectors", rank=17),
    flow("with unknown couplings", "config.json: flow coupling 'x': choose", coupling="x"),
    flow("with unknown settings", "config.json: scales is no part of a flow", scales=3),
    flow("without a tensor", "tensor axes is missing", tensors=lambda found: found.pop("axes")),
    flow("with a tensor too many", "tensor x has no place in a flow", tensors=put(ONES, "x")),
    flow("with a mis-shaped tensor", "tensor mean has shape", tensors=put(ONES, "mean")),
    flow("of what is not finite", "not finite", tensors=put(NAN[0], "mean")),
    flow("of whole numbers", "mean is I8", tensors=put(ONES[0].astype(np.int8), "mean")),
    flow(
        "with fractions for places",
        "tensor permutation is F32, not I32",
        tensors=put(np.zeros((2, 15), np.float32), "permutation"),
    ),
    flow("with a place taken twice", "permutation has rows that are no perm", tensors=twice),
    flow("with a place beyond the last", "permutation has rows that are no", tensors=beyond),
    model("no tokenizer", without_tokenizer, "{}/model: holds no tokenizer"),
    file("a torn tokenizer", "tokenizer.json", '{"version": ', "{}/model: its tokenizer cannot be"),
    file("an empty tokenizer", "tokenizer.json", "{}", "{}/model: its tokenizer cannot be read ("),
    file(
        "a pointer of Git LFS",
        "model.safetensors",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "{}/model/model.safetensors: is a pointer of Git LFS",
    ),
    file("a tokenizer of text", "tokenizer.json", "hello", "{}/model: its tokenizer cannot be"),
    file(
        "torn settings of a tokenizer", "tokenizer_config.json", "{", "tokenizer_config.json:1: is"
    ),
    settings(
        "no classification token",
        "tokenizer_config.json",
        "does not begin a text with",
        cls_token=None,
    ),
    settings("another padding token", "tokenizer_config.json", "pads with id", pad_token="[SEP]"),
    settings("special tokens that are numbers", "tokenizer_config.json", "{}/model: ", cls_token=5),
    vocabulary("ids beyond the weights", larger, "token ids reach 5000, but the weights have"),
    vocabulary("half a vocabulary", smaller, "tokens, but the weights have"),
    vocabulary("a lost classification token", without_first, "two tokens have one id"),
]
