"""When two texts count as the same text."""

from __future__ import annotations

import hashlib
import unicodedata


def normalised(text: str) -> str:
    """The form by which texts are told apart: texts with the same form share one id.

    Unicode NFKC, then case folding, then every run of white space as one space and none at the
    ends. Punctuation, accents and digits keep texts apart.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def text_digest(text: str) -> bytes:
    """128 bits of a hash; two of 2**40 texts have the same with a probability of 2**-49."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
