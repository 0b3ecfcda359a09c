"""Prompts of a run: of the model that it starts with, of its sources, in scores and export."""

import dataclasses
import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.data.config import DataConfig
from simjax.data.sources import Source
from simjax.eval import tasks
from simjax.eval.tasks import EvalConfig, Task
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import finish, prompts
from simjax.train.config import TokenizerConfig
from simjax.train.setup import set_up
from tests.train.tiny_run import WORDS, config_for, train

QUERY, DOCUMENT = f"{WORDS[0]} ", f"{WORDS[1]} {WORDS[2]} "
TEXTS = [" ".join(WORDS[i : i + 3]) for i in range(12)]
NONE = Source(path="a")
BOTH = Source(path="b", anchor_prefix="q: ", document_prefix="d: ")
OTHER = Source(path="c", anchor_prefix="q: ")


@pytest.mark.parametrize(
    ("sources", "views", "found"),
    [
        ([NONE], "columns", {}),
        ([OTHER], "columns", {"query": "q: ", "document": ""}),
        # All that is read of these are anchors.
        ([OTHER], "dropout", {"query": "q: ", "document": "q: "}),
        ([BOTH, NONE, BOTH], "columns", {"query": "q: ", "document": "d: "}),
        ([BOTH, OTHER], "columns", None),
        ([BOTH, OTHER], "single", {"query": "q: ", "document": "q: "}),
    ],
)
def test_sources_that_have_prompts_agree_or_do_not(sources, views, found):
    assert prompts.of_sources(DataConfig(sources=tuple(sources), views=views)) == found


def with_prompts(config, *sources):
    """The run on its data with these prompts, a source for each."""
    parts = tuple(
        dataclasses.replace(config.data.source, anchor_prefix=query, document_prefix=document)
        for query, document in sources
    )
    data = dataclasses.replace(config.data, source=Source(), sources=parts, max_length=16)
    return dataclasses.replace(config, data=data)


@pytest.fixture
def pretrained(data, tmp_path):
    """A model with prompts."""
    plain = set_up(config_for(data, tmp_path / "plain")).encoder
    named = {"query": "query: ", "passage": QUERY}
    encoder = SentenceEncoder(plain.model, plain.tokenizer, prompts=named, default_prompt="passage")
    return str(encoder.save_pretrained(tmp_path / "pretrained"))


def test_a_model_keeps_its_prompts(data, pretrained, tmp_path):
    config = config_for(data, tmp_path / "run", tokenizer=TokenizerConfig())
    model = dataclasses.replace(config.model, pretrained=pretrained)
    config = dataclasses.replace(config, model=model)
    run = set_up(config)
    assert f"; texts are scored behind the model's prompt {QUERY!r}" in run.summary()
    finish.export_model(
        config, run.encoder, tmp_path / "export", step=0, scores={}, overwrite=False
    )
    peer = SentenceTransformer(str(tmp_path / "export"), device="cpu")
    assert peer.prompts == {"query": "query: ", "passage": QUERY, "document": ""}
    assert peer.default_prompt_name == "passage"
    np.testing.assert_allclose(peer.encode(TEXTS), run.encoder.encode(TEXTS), atol=1e-5)
    # Those of the sources take the place of its own.
    changed = set_up(with_prompts(config, (DOCUMENT, "")))
    assert changed.encoder.prompts == {"query": DOCUMENT, "passage": QUERY, "document": ""}


def test_sources_that_differ_are_told(data, tmp_path):
    run = set_up(with_prompts(config_for(data, tmp_path / "run"), (QUERY, ""), (DOCUMENT, "")))
    assert run.summary().endswith("; the sources' prompts differ: scores are taken without them")
    assert run.encoder.prompts == {}


@pytest.mark.slow
def test_retrieval_is_scored_with_the_prompts_that_are_exported(data, tmp_path):
    beir = tmp_path / "beir"
    beir.mkdir()
    for name, texts in (("queries", TEXTS[:4]), ("corpus", TEXTS[2:])):
        records = [json.dumps({"_id": text, "text": text}) for text in texts]
        (beir / f"{name}.jsonl").write_text("\n".join(records))
    judged = [f"{TEXTS[i]}\t{TEXTS[i + 4]}\t1" for i in range(4)]
    (beir / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))

    config = with_prompts(config_for(data, tmp_path / "run"), (QUERY, DOCUMENT), ("", ""))
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=3),
        evaluation=EvalConfig((Task("retrieval", str(beir)),)),
    )
    named = f"{QUERY!r} and {DOCUMENT!r} are for retrieval's queries and documents"
    assert set_up(config).summary().endswith(f"; the sources' prompts {named}")
    after = train(config)["after"]
    peer = SentenceTransformer(str(tmp_path / "run" / "export"), device="cpu")
    assert (peer.prompts["query"], peer.prompts["document"]) == (QUERY, DOCUMENT)
    loaded = tasks.load(config.evaluation)
    sides = (peer.encode_query, peer.encode_document)
    wanted = tasks.run(loaded, peer.encode, sides=sides)
    assert after == pytest.approx(wanted, rel=1e-3)
    # Else this would show nothing.
    plain = tasks.run(loaded, peer.encode)
    assert abs(plain["beir/alignment"] - wanted["beir/alignment"]) > 0.01
