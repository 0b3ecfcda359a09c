"""A model folder that sentence-transformers, transformers and simjax all load."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import save_file

from simjax import __version__, model_card, remote
from simjax.data.engine import serialisable
from simjax.errors import SimjaxError
from simjax.model_card import ModelCard as ModelCard
from simjax.models import decoder as decoders
from simjax.models import module_folders
from simjax.models.decoder import Decoder
from simjax.models.heads import HeadWeights
from simjax.models.hf import hf_config, state_dict
from simjax.models.modules_json import POOLING_FLAGS, POOLING_WORDS, two_layer_weights
from simjax.models.pooling import TWO_LAYERS
from simjax.models.sentence_model import SentenceModel
from simjax.postprocess import flow_folder
from simjax.postprocess.flow import Flow
from simjax.processes import drafts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The class paths of every release since the first; those after the move still know them.
_MODULE = "sentence_transformers.models."
_TORCH = "torch.nn.modules."
_ACTIVATIONS = {"tanh": f"{_TORCH}activation.Tanh", "identity": f"{_TORCH}linear.Identity"}
_METADATA = {"format": "pt"}


def save(
    folder: Path | str,
    model: SentenceModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    normalize: bool,
    max_length: int,
    card: ModelCard | None = None,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
    training_head: bool = True,
    flow: Flow | None = None,
    decoder: Decoder | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the folder, whole or not at all.

    `transformers` sees the encoder (`config.json`, `model.safetensors`, tokenizer files);
    `modules.json` tells sentence-transformers about pooling, dense layers and normalisation.
    `first_last_mean` and `top2_mean` are written as a `WeightedLayerPooling` module, whose weights
    are 1 for two layers and 0 for others, before the mean.

    Args:
        folder: Where to. A folder that holds anything is refused. To a URL that fsspec reaches
            (gs://, s3://) it is copied file by file, the one that makes it a model last.
        model: The model.
        tokenizer: Its tokenizer.
        normalize: Whether embeddings are unit vectors.
        max_length: Tokens beyond which a text is cut.
        card: For the README.
        prompts: Texts to put before sentences, by name.
        default_prompt: Which of them is used when none is asked for.
        training_head: False drops the dense layer of `cls_mlp`, as after unsupervised SimCSE;
            the pooling is then the first token.
        flow: What the model's vectors go through before they are scaled. It gets a folder of its
            own, which simjax alone reads (`model_card.WITHOUT_FLOW`).
        decoder: What the model writes texts with, and its latents if it has some. They get folders
            of their own, which simjax alone reads (`model_card.WITHOUT_LATENTS`).
        overwrite: Replace a model that was exported here before (never anything else).

    Returns:
        The folder.

    Raises:
        SimjaxError: The folder holds something, or cannot be written.
    """
    if remote.is_url(folder):
        url = remote.as_url(folder)
        with tempfile.TemporaryDirectory(prefix="simjax-export-") as scratch:
            here = save(
                Path(scratch) / url.rstrip("/").rpartition("/")[2],  # the card's title
                model,
                tokenizer,
                normalize=normalize,
                max_length=max_length,
                card=card,
                prompts=prompts,
                default_prompt=default_prompt,
                training_head=training_head,
                flow=flow,
                decoder=decoder,
            )
            remote.upload_model(here, url, overwrite=overwrite)
        return Path(folder)
    folder = Path(folder).expanduser().resolve()
    check_target(folder, overwrite=overwrite)
    partial = drafts.draft_of(folder)
    try:
        partial.mkdir(parents=True)
        modules = _write_modules(partial, model, training_head=training_head, normalize=normalize)
        config = hf_config(model.config)
        if model.config.family == "modernbert":
            # transformers' own defaults are those of one vocabulary.
            first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
            config |= {"cls_token_id": first, "bos_token_id": first}
            config |= {"sep_token_id": last, "eos_token_id": last}
        if model.pooling in TWO_LAYERS:
            config["output_hidden_states"] = True
        _write_json(partial / "config.json", config)
        save_file(state_dict(model), partial / "model.safetensors", _METADATA)
        _write_tokenizer(partial, tokenizer, max_length)
        _write_json(
            partial / "sentence_bert_config.json",
            {"max_seq_length": max_length, "do_lower_case": False},
        )
        flows: tuple[module_folders.Own, ...] = () if flow is None else ("flow",)
        own = (*flows, *decoders.folders(decoder))
        _write_json(
            partial / module_folders.SETTINGS,
            {
                "model_type": "SentenceTransformer",
                "__version__": {"simjax": __version__},
                "prompts": dict(prompts or {}),
                "default_prompt_name": default_prompt,
                "similarity_fn_name": "cosine",
                **module_folders.declared(own),
            },
        )
        if flow is not None:
            flow_folder.write(partial / "flow", flow)
        if decoder is not None:
            decoders.write(partial, decoder)
        told = card or ModelCard()
        readme = model_card.readme(told, folder.name, model, modules, max_length, flow, decoder)
        (partial / "README.md").write_text(readme, "utf-8")
        drafts.move_into_place(partial, folder)
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        reason = getattr(error, "strerror", None) or error
        raise SimjaxError(f"{folder}: cannot be written ({reason})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that `save` would not write to, before there is anything to write.

    What exports that were killed have left there is cleared up first.

    Raises:
        SimjaxError: It is a file, or holds something that is not to be replaced.
    """
    drafts.recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SimjaxError(f"{folder}: is a file; choose a folder for the model")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise SimjaxError(
            f"{folder}: is not empty; choose another, or --overwrite (overwrite=True) a model"
        )
    if not _is_ours(folder):
        raise SimjaxError(
            f"{folder}: holds something that simjax did not export, which is never overwritten;"
            " choose another folder"
        )


def _is_ours(folder: Path) -> bool:
    try:
        config = json.loads((folder / module_folders.SETTINGS).read_text("utf-8"))
        return "simjax" in config["__version__"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _write_modules(
    folder: Path, model: SentenceModel, *, training_head: bool, normalize: bool
) -> list[str]:
    """Write `modules.json` and a folder for each module that has settings; return their names."""
    kinds = ["Transformer"]
    if model.pooling in TWO_LAYERS:
        kinds.append("WeightedLayerPooling")
        _write_layer_weights(folder / f"{len(kinds) - 1}_WeightedLayerPooling", model)
    kinds.append("Pooling")
    ours = "mean" if model.pooling in TWO_LAYERS else model.pooling
    mode = {ours: word for word, ours in POOLING_WORDS.items()}.get(ours, "cls")
    place = folder / f"{len(kinds) - 1}_Pooling"
    place.mkdir()
    _write_json(
        place / "config.json",
        {
            "word_embedding_dimension": model.config.hidden_size,
            **{flag: mode == word for flag, word in POOLING_FLAGS.items()},
        },
    )
    for head in model.head_weights(training_head=training_head):
        kinds.append("Dense")
        _write_dense(folder / f"{len(kinds) - 1}_Dense", head)
    if normalize:
        kinds.append("Normalize")
    _write_json(
        folder / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": _MODULE + kind,
            }
            for number, kind in enumerate(kinds)
        ],
    )
    return kinds


def _write_layer_weights(folder: Path, model: SentenceModel) -> None:
    folder.mkdir()
    layers = model.config.num_layers
    weights = two_layer_weights(model.pooling, layers)
    _write_json(
        folder / "config.json",
        {
            "word_embedding_dimension": model.config.hidden_size,
            "layer_start": 1,  # 0 would be the embeddings
            "num_hidden_layers": layers,
        },
    )
    save_file({"layer_weights": weights}, folder / "model.safetensors", _METADATA)


def _write_dense(folder: Path, head: HeadWeights) -> None:
    folder.mkdir()
    out_features, in_features = head.weight.shape
    _write_json(
        folder / "config.json",
        {
            "in_features": in_features,
            "out_features": out_features,
            "bias": head.bias is not None,
            "activation_function": _ACTIVATIONS[head.activation],
        },
    )
    tensors = {"linear.weight": head.weight}
    if head.bias is not None:
        tensors["linear.bias"] = head.bias
    save_file(tensors, folder / "model.safetensors", _METADATA)


def _write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
    with serialisable(tokenizer.backend_tokenizer):
        ours = copy.deepcopy(tokenizer)
    ours.model_max_length = max_length
    # What calls of the tokenizer switched on would otherwise be read back as its nature.
    ours.backend_tokenizer.no_padding()
    ours.backend_tokenizer.no_truncation()
    ours.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):
        config.pop(key, None)  # where this copy came from, which is nobody's business
    _write_json(path, config)
    # Releases of transformers before 5 look for the special tokens here.
    _write_json(folder / "special_tokens_map.json", dict(ours.special_tokens_map))
