"""Sentences to vectors: the trained model as a library."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from simjax.errors import SimjaxError, UsageError
from simjax.index.searchable import Searchable
from simjax.inference.cutter import Cutter, longest_text
from simjax.inference.embedder import Embedder, Weights
from simjax.inference.identity import fingerprint
from simjax.inference.progress import progress
from simjax.inference.request import Distinct, Request, check_several, default_batch_size
from simjax.models.decoder import HEAD, LATENTS, Decoder
from simjax.models.decoder import read as read_decoder
from simjax.models.pooling import Pooling
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.postprocess.flow import Flow
from simjax.postprocess.flow_folder import read as read_flow
from simjax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from simjax.export import ModelCard
    from simjax.models.latents import Latents


class SentenceEncoder(Searchable):
    """A sentence model with its tokenizer.

    Attributes:
        tokenizer: The tokenizer as it was given.
        normalize: Whether `encode` returns unit vectors by default.
        max_length: Tokens, special ones included, beyond which a text is cut.
        prompts: Texts that `encode` can put before sentences, by name.
        default_prompt: Which of them it does when none is asked for.
        flow: What the model's vectors go through before they are scaled; None for none.
        decoder: What the model writes texts with (`simjax.generate`); None where it does not.
    """

    def __init__(
        self,
        model: SentenceModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        normalize: bool = True,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt: str | None = None,
        training_head: bool = True,
        flow: Flow | None = None,
        decoder: Decoder | None = None,
        of_latents: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Put an encoder together from its parts.

        Args:
            model: The model. Its dtype decides the precision of the computation.
            tokenizer: A fast tokenizer that fits the model.
            normalize: Whether `encode` returns unit vectors by default.
            max_length: Longest text in tokens; by default, what tokenizer and model allow.
            prompts: Texts that `encode` can put before sentences, by name.
            default_prompt: Which of them it does when none is asked for.
            training_head: False leaves out a head that is only there for training.
            flow: What the model's vectors go through before they are scaled.
            decoder: What the model writes texts with.
            of_latents: `encode` gives the means of the decoder's latents, side by side.
            devices: Devices that share the work, such as `jax.local_devices()`; None takes the
                one that the parameters are on.

        Raises:
            UsageError: `max_length` is more than the model's positions, or leaves no room beside
                the special tokens; or there are no latents.
        """
        if of_latents and (decoder is None or decoder.latents is None):
            raise UsageError(
                "pooling latents: the model has none; objective.name vae trains them "
                "(configs/univae_small.yaml)"
            )
        self.tokenizer = tokenizer
        self.normalize = normalize
        self.prompts = dict(prompts or {})
        self.default_prompt = default_prompt
        self.training_head = training_head
        self.flow = flow
        self.decoder = decoder
        self.max_length = longest_text(max_length, tokenizer, model.config.max_positions)
        self._cutter = Cutter(tokenizer, self.max_length)
        self._pooling = model.pooling
        self._dtype = model.dtype
        self._graphdef, params = split(model)
        self._of_latents = of_latents
        self._size = model.embedding_size if flow is None else flow.config.rank
        if (latents := self.latents) is not None:
            self._size = latents.config.width
        self._embedder = Embedder(
            self._graphdef,
            model.config.hidden_size,
            training_head=training_head,
            latents=None if latents is None else split(latents)[0],
            devices=devices,
        )
        self._placed: Weights | None = None
        self._devices = devices
        self.params = params

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        pooling: Pooling | Literal["latents"] | None = None,
        dtype: str = "float32",
        normalize: bool | None = None,
        max_length: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> SentenceEncoder:
        """Load a model.

        Args:
            name_or_path: A local Hugging Face or sentence-transformers folder, a run folder (its
                `export`), or a name on the Hugging Face hub.
            pooling: Overrides the folder's; a plain Hugging Face folder has none, and gets mean.
                `latents` are those of a model that writes texts again from them (UniVAE), their
                means side by side, without the folder's flow.
            dtype: `float32` or `bfloat16`, the precision of the computation.
            normalize: Overrides the folder's modules.
            max_length: Overrides the folder's.
            devices: Devices that share the work, such as `jax.local_devices()`; by default one.

        Raises:
            SimjaxError: There is no such model, or something in it is missing or does not fit.
        """
        from simjax.models import hf
        from simjax.models.tokenizer import check_tokenizer, load_tokenizer

        if dtype not in ("float32", "bfloat16"):
            raise UsageError(f"dtype {dtype!r}: choose float32 or bfloat16")
        folder = hf.resolve(name_or_path)
        of_latents = pooling == "latents"
        loaded = hf.load(
            folder, pooling=None if pooling == "latents" else pooling, dtype=jnp.dtype(dtype)
        )
        if loaded.random_head:
            raise SimjaxError(
                f"{folder}: no dense layer for pooling {loaded.model.pooling}; choose cls or mean"
            )
        size = loaded.model.embedding_size
        tokenizer = load_tokenizer(folder)
        check_tokenizer(tokenizer, loaded.model.config)
        return cls(
            loaded.model,
            tokenizer,
            normalize=loaded.normalize if normalize is None else normalize,
            max_length=loaded.max_length if max_length is None else max_length,
            prompts=loaded.prompts,
            default_prompt=loaded.default_prompt,
            flow=None if loaded.flow is None or of_latents else read_flow(loaded.flow, size),
            decoder=read_decoder(folder, loaded.model.config),
            of_latents=of_latents,
            devices=devices,
        )

    @property
    def model(self) -> SentenceModel:
        """The model with its parameters."""
        return merge(self._graphdef, self.params)

    @property
    def dtype(self) -> str:
        """Precision of the computation."""
        return str(self._dtype)

    @property
    def latents(self) -> Latents | None:
        """Those of the decoder, if they are what `encode` gives; None gives what is pooled."""
        return self.decoder.latents if self._of_latents and self.decoder is not None else None

    def fingerprint(self) -> str:
        """A digest of weights, architecture, pooling (or latents), flow and tokenizer."""
        return fingerprint(
            self.model,
            self.tokenizer,
            training_head=self.training_head,
            flow=self.flow,
            latents=self.latents,
        )

    def replace(self, params: Params, heads: Mapping[str, Params] | None = None) -> SentenceEncoder:
        """The same encoder with other parameters; shares the compiled code.

        Args:
            params: Of the model.
            heads: Of its decoder's parts, by name, which it otherwise does without.
        """
        other = copy.copy(self)
        if self.decoder is not None and not self._of_latents:
            other.decoder = None
        if self.decoder is not None and heads is not None and HEAD in heads:
            other.decoder = self.decoder.with_params(heads)
        other._index = None
        other._placed = None
        other.params = params
        return other

    def rebuilt(self, model: SentenceModel, flow: Flow | None = None) -> SentenceEncoder:
        """The same use of a model with other heads, with this flow or none."""
        return SentenceEncoder(
            model,
            self.tokenizer,
            normalize=self.normalize,
            max_length=self.max_length,
            prompts=self.prompts,
            default_prompt=self.default_prompt,
            training_head=self.training_head,
            flow=flow,
            decoder=self.decoder,
            of_latents=self._of_latents,
            devices=self._devices,
        )

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        show_progress_bar: bool = False,
        prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> Float32[np.ndarray, "..."]:
        """Embed sentences.

        Equal sentences are computed once. Lone surrogates, which no tokenizer takes, are read
        as U+FFFD. Texts share rows, so neither the order nor the lengths of the sentences
        matter for speed.

        Args:
            sentences: One sentence, or several.
            batch_size: Most texts of 64 tokens (or as many tokens in texts of other lengths) per
                call of the device, where memory is short; None, the default, suits the device.
            normalize: Unit vectors or not; None, the default, does what the model's folder says.
            show_progress_bar: Show one.
            prompt: Text put before every sentence, or the name of one of `prompts`; None means
                the default prompt, if there is one, and an empty string none.
            truncate_dim: Keep this many leading dimensions, at most all. What the folder says is
                done before, as in sentence-transformers; `normalize=True` makes unit vectors of
                what is left.

        Returns:
            float32, in the order of the sentences; [D] for one sentence, otherwise [N, D].

        Raises:
            TypeError: Something among the sentences is not a string, or they are none.
            UsageError: `batch_size` or `truncate_dim` is below 1, or the latter above the width.
        """
        single = isinstance(sentences, str)
        check_several(sentences)
        request = self.request(batch_size, normalize, prompt, truncate_dim)
        distinct = Distinct(
            [sentences] if isinstance(sentences, str) else sentences, request.before
        )
        texts = distinct.texts
        source, starts = iter(texts), [0]

        def windows() -> Iterator[list[str]]:
            while window := list(self._embedder.window(source, request.most_tokens)):
                starts.append(starts[-1] + len(window))
                yield window

        result = np.empty((len(texts), request.width), np.float32)
        with progress(len(texts), shown=show_progress_bar) as advance:
            for part in self._embedder.run(self._weights(), self._cutter, windows(), request):
                result[starts[part.window] + part.texts] = part.values
                advance(len(part.texts))
        return result[0] if single else distinct.rows(result)

    @property
    def for_retrieval(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`encode` as it is for queries, and as it is for documents.

        Queries have the model's prompt `query`, documents `document`, `passage` or `corpus`,
        whichever it has. With a prompt for one side alone the other has none; with neither, both
        have the default prompt, if there is one.
        """
        names = (("query",), ("document", "passage", "corpus"))
        chosen = [next((name for name in side if self.prompts.get(name)), "") for side in names]
        queries, documents = (
            partial(self.encode, prompt=name if any(chosen) else None) for name in chosen
        )
        return queries, documents

    def encode_stream(
        self,
        sentences: Iterable[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> Iterator[Float32[np.ndarray, "n D"]]:
        """Embed any number of sentences in bounded memory.

        Sentences are read a window of some thousands at a time, or fewer where they are long;
        those of a window share rows, and equal ones of a window are computed once.

        Args:
            sentences: Read as far as needed, two windows ahead of what is given out.
            batch_size: See `encode`, as for the others.
            normalize: See `encode`.
            prompt: See `encode`.
            truncate_dim: See `encode`.

        Returns:
            The embeddings of one window after the other, in the order of the sentences.

        Raises:
            TypeError: See `encode`.
            UsageError: See `encode`.
        """
        if isinstance(sentences, str):
            raise TypeError("sentences is str: give several")
        check_several(sentences)
        request = self.request(batch_size, normalize, prompt, truncate_dim)
        return self._embedder.stream(self._weights(), self._cutter, iter(sentences), request)

    def request(
        self,
        batch_size: int | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> Request:
        """What the options of `encode` come to for this model.

        Raises:
            UsageError: See `encode`.
        """
        for option, value in (("batch_size", batch_size), ("truncate_dim", truncate_dim)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: must be at least 1")
        width = self._size if truncate_dim is None else truncate_dim
        if width > self._size:
            raise UsageError(f"truncate_dim {width}: embeddings have {self._size} dimensions")
        prompt = self.default_prompt if prompt is None else prompt
        return Request(
            before="" if prompt is None else self.prompts.get(prompt, prompt),
            width=width,
            unit_first=normalize is None and self.normalize,
            unit_last=bool(normalize),
            most_tokens=64 * (default_batch_size() if batch_size is None else batch_size),
        )

    def _weights(self) -> Weights:
        """The parameters on the devices, put there once."""
        if self._placed is None:
            params = self.params
            if (latents := self.latents) is not None:
                params = {"model": params, LATENTS: split(latents)[1]}
            self._placed = self._embedder.place(params, self.flow)
        return self._placed

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        card: ModelCard | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write a folder that `from_pretrained`, sentence-transformers and transformers load.

        The latter two load it without its flow, if it has one.

        Args:
            folder: Where to.
            card: What its README says of where the model comes from.
            overwrite: Replace a model that was exported there before.

        Raises:
            SimjaxError: See `simjax.export.save`.
        """
        from simjax import export

        return export.save(
            folder,
            self.model,
            self.tokenizer,
            normalize=self.normalize,
            max_length=self.max_length,
            card=card,
            prompts=self.prompts,
            default_prompt=self.default_prompt,
            training_head=self.training_head,
            flow=self.flow,
            decoder=self.decoder,
            overwrite=overwrite,
        )
