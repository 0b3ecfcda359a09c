"""Texts without end to a file of embeddings, in bounded memory, and on from where it stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.errors import SimjaxError
from simjax.inference.partial import PartialOutput, Texts

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder


def encode_to_file(
    encoder: SentenceEncoder,
    texts: Iterable[str],
    output: Path,
    *,
    name: str = "the input",
    batch_size: int | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    resumed: Callable[[int], None] = lambda rows: None,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Embed texts and write `output`, whole or not at all (see `simjax.inference.partial`).

    Args:
        encoder: The model.
        texts: Read once; those whose rows an earlier run left are read and not embedded again.
        output: A file that ends in .npy, .safetensors or .parquet; an older one is replaced.
        name: Where the texts are from, for errors.
        batch_size: See `SentenceEncoder.encode`, as for the next three.
        normalize: See there.
        prompt: See there.
        truncate_dim: See there.
        resumed: Told once how many rows there were already, if there were any.
        advance: Told of every number more.

    Returns:
        Rows and width of the file.

    Raises:
        SimjaxError: There is no text, what was left does not belong to this, or the file cannot
            be written.
        UsageError: The file's name shows no format, or an option is out of range.
    """
    request = encoder.request(batch_size, normalize, prompt, truncate_dim)
    scaled = ["no", "before cutting", "yes"][2 if request.unit_last else int(request.unit_first)]
    identity = {
        "model": encoder.fingerprint(),
        "dtype": encoder.dtype,
        "max_length": encoder.max_length,
        "prompt": request.before,
        "normalize": scaled,
        "width": request.width,
    }
    out = PartialOutput(output, request.width, identity)
    digest = Texts()
    waiting: deque[str] = deque()
    source = iter(texts)
    written = False  # whether any text is more than white space

    def read() -> Iterator[str]:
        for text in source:
            waiting.append(text)
            yield text

    try:
        for text in islice(source, out.rows):
            digest.add(text)
            written = written or bool(text.strip())
        if out.rows:
            out.check_texts(digest)
            resumed(out.rows)
        stream = encoder.encode_stream(
            read(),
            batch_size=batch_size,
            normalize=normalize,
            prompt=prompt,
            truncate_dim=truncate_dim,
        )
        for rows in stream:
            for _ in range(len(rows)):
                text = waiting.popleft()
                digest.add(text)
                written = written or bool(text.strip())
            out.append(rows, digest.hexdigest())
            advance(len(rows))
        if not written:
            out.discard()
            raise SimjaxError(f"{name}: holds no text; expected one on each line")
        out.finish()
    finally:
        out.close()
    return out.rows, request.width
