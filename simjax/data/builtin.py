"""A corpus that every Python carries: its manual's topics and its library's docstrings.

Nothing is imported or run: the sources of the standard library are read with `ast`. The same
Python gives the same corpus; another version gives a slightly different one.

* sentences: of the topics and of all docstrings.
* pairs: a topic's heading, or a docstring's summary line, with the text that follows it.
* held out: pairs for retrieval whose texts are in neither of the above.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from simjax.data.identity import normalised
from simjax.errors import SimjaxError

HELD_OUT_OUT_OF = 8
"""One in this many entries is held out, chosen by a hash of its title."""

MIN_TITLE_WORDS, MIN_BODY_WORDS, MAX_BODY_WORDS = 3, 8, 90
"""Shorter summaries and texts make no pair; longer texts end with the sentence before."""

MIN_SENTENCE_WORDS, LONGEST_SENTENCE_WORDS = 4, 80

_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["')]))(?<!e\.g\.)(?<!i\.e\.)(?<!cf\.)(?<!vs\.)(?<!etc\.)"""
    r"""[ ]+(?=["'(]?[A-Z])"""
)
_PARAGRAPH_END = re.compile(
    r"\n[ \t]*\n"  # a blank line,
    r"|\n(?=[ \t]*(?:[-*+]|\d+[.)])[ \t])"  # the next item of a list,
    r"|\n(?=[ \t]*:(?:param|type|raises?|returns?|rtype)\b)"  # the next field.
)
_CODE = re.compile(r"^\s*(>>>|\.\.\. |\$ |\+-|\|)|::=|^ {4,}\S+ *= ", re.MULTILINE)
_ITEM = re.compile(
    r"^\s*(?:(?:[-*+]|\d+[.)])\s+|:(?:returns?|rtype):|:(?:param|type|raises?)(?= ))"
)
# Older docstrings begin with the signature: "get(x) -> value", "get(x): what it does".
_SIGNATURE = re.compile(r"^[\w.]+\([^()]*\)\s*(?:->|--?|:)\s*")
_MARKUP = (
    (re.compile(r":[a-z:]+:`([^`]*)`"), r"\1"),
    (re.compile(r"`([^`'\s]+)'"), r"'\1'"),
    (re.compile(r"``?([^`]+?)``?"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}([^*\s][^*]*?)\*{1,2}(?![\w*])"), r"\1"),
)

_LEFT_OUT = {
    *("test", "tests", "idle_test"),
    *("idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "__pycache__"),
    *("pydoc_data", "encodings"),
}
"""Folders of tests, of tools, of other people's packages, and of a hundred codecs alike."""


@dataclass(frozen=True)
class Entry:
    """A piece of documentation."""

    name: str
    """Where it is from: `shutil.rmtree`, or `topic:assert`."""
    title: str
    body: str

    @property
    def module(self) -> str:
        """The module or package of the library that it is from: `shutil`, or `topic`."""
        return self.name.replace(":", ".").partition(".")[0]


@dataclass(frozen=True)
class Corpus:
    """What can be trained on, and what is kept for evaluation."""

    sentences: tuple[str, ...]
    pairs: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    """No title and no sentence of these is one of `sentences` or in one of `pairs`; titles and
    bodies are distinct."""


def files() -> list[Path]:
    """The sources that the corpus is made from, in order.

    Raises:
        SimjaxError: this Python comes without its library's sources.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    topics = library / "pydoc_data" / "topics.py"
    if not topics.is_file():
        raise SimjaxError(
            f"{topics}: no such file: this Python comes without its documentation, so there is no "
            "built-in corpus; install the full standard library or train on files of your own"
        )
    modules = []
    for path in library.rglob("*.py"):
        folders = path.relative_to(library).parts[:-1]
        if not _LEFT_OUT.intersection(folders) and not any(
            folder.startswith("config-") for folder in folders
        ):
            modules.append(path)
    return [topics, *sorted(modules, key=lambda path: path.relative_to(library).parts)]


@cache
def corpus() -> Corpus:
    """Read the corpus; a few seconds the first time.

    Raises:
        SimjaxError: see `files`.
    """
    topics, *modules = files()
    documents = [*_topics(topics)]
    for path in modules:
        documents += _docstrings(path)
    entries = _distinct([entry for document in documents if (entry := _entry(*document))])
    held_out = tuple(entry for entry in entries if _is_held_out(entry))

    # A document's title and all of its sentences stay out with it, also those cut off its body.
    names = {entry.name for entry in held_out}
    hidden = {
        normalised(text)
        for name, document in documents
        if name in names
        for text in _sentences(document)
    }
    hidden |= {
        normalised(text)
        for entry in held_out
        for text in (entry.title, entry.body, *_sentences(entry.body))
    }
    pairs = tuple(
        entry
        for entry in entries
        if not _is_held_out(entry)
        and hidden.isdisjoint(map(normalised, [entry.title, entry.body, *_sentences(entry.body)]))
    )
    sentences: dict[str, str] = {}
    for _, text in documents:
        for sentence in _sentences(text):
            key = normalised(sentence)
            if key not in hidden:
                sentences.setdefault(key, sentence)
    return Corpus(tuple(sentences.values()), pairs, held_out)


def _is_held_out(entry: Entry) -> bool:
    digest = hashlib.sha256(normalised(entry.title).encode()).digest()
    return digest[0] % HELD_OUT_OUT_OF == 0


def _distinct(entries: list[Entry]) -> list[Entry]:
    """The first entry of each title and of each body."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        keys = {normalised(entry.title), normalised(entry.body)}
        if len(keys) == 2 and seen.isdisjoint(keys):
            seen |= keys
            kept.append(entry)
    return kept


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each section of the manual's topics, the one dictionary in the file."""
    for node in _parse(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in ast.literal_eval(node.value).items():
                # A heading is a line that the next one underlines.
                parts = re.split(r"^(\S.*)\n[*=\-~^]{3,}$", text, flags=re.MULTILINE)
                for heading, section in zip(parts[1::2], parts[2::2], strict=True):
                    yield f"topic:{topic}", f"{heading}\n\n{section}"


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Qualified name and docstring of the module and of all that it defines."""
    library = Path(sysconfig.get_paths()["stdlib"])
    parts = path.relative_to(library).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=True)
            if text:
                yield name, text
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(child, f"{name}.{child.name}")
            elif isinstance(child, ast.If | ast.Try | ast.With):
                yield from walk(child, name)

    yield from walk(_parse(path), module)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        # Old-fashioned escapes in the library's strings are not the reader's business.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _entry(name: str, text: str) -> Entry | None:
    """The summary of a document and what follows it, None if there is too little of either."""
    sentences = _sentences(text, shortest=1)
    if not sentences:
        return None
    title, *rest = sentences
    words = 0
    body: list[str] = []
    for sentence in rest:
        if normalised(sentence) == normalised(title):
            continue
        words += len(sentence.split())
        if body and words > MAX_BODY_WORDS:
            break
        body.append(sentence)
    # A heading of the manual may be one word; a summary line that short says too little.
    shortest = 1 if name.startswith("topic:") else MIN_TITLE_WORDS
    if len(title.split()) < shortest or len(" ".join(body).split()) < MIN_BODY_WORDS:
        return None
    return Entry(name, title, " ".join(" ".join(body).split()[: 2 * MAX_BODY_WORDS]))


def _sentences(text: str, shortest: int = MIN_SENTENCE_WORDS) -> list[str]:
    """The sentences of a document's prose, without markup; code, tables and lists of names go."""
    found = []
    for paragraph in _PARAGRAPH_END.split(text.strip()):
        for sentence in _SENTENCE_END.split(_prose(paragraph)):
            sentence = sentence.strip()
            letters = sum(map(str.isalpha, sentence))
            if (
                len(re.findall(r"[^\W\d_]{2,}", sentence)) >= shortest
                and len(sentence.split()) <= LONGEST_SENTENCE_WORDS
                and letters >= 0.7 * len(sentence.replace(" ", ""))
            ):
                found.append(sentence)
    return found


def _prose(paragraph: str) -> str:
    """A paragraph on one line without markup, empty if it is code or a table."""
    if _CODE.search(paragraph):
        return ""
    text = _ITEM.sub("", paragraph)
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return _SIGNATURE.sub("", " ".join(text.split()))
