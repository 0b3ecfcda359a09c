"""Similar sentences, from the library and from the command line."""

import json

import numpy as np
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.generate.paraphraser import Paraphraser
from simjax.generate.sampling import SamplingConfig
from simjax.generate.spelling import Spelling
from tests.cli.conftest import simjax as simjax
from tests.generate.writers import COUNT, MAX_TOKENS, writer

HOT = SamplingConfig(count=COUNT, temperature=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return writer().save_pretrained(tmp_path_factory.mktemp("writer") / "model")


def test_scores_are_the_encoder_s_cosines_and_the_best_come_first():
    encoder, text = writer(), "the cat sit"
    found = Paraphraser(encoder).similar(text, HOT)
    assert len(found) > 10
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    vectors = encoder.encode([text, *(one.text for one in found)], normalize=True)
    np.testing.assert_allclose(scores, vectors[1:] @ vectors[0], atol=1e-5)


def test_neither_the_text_itself_nor_another_s_copy_is_given(monkeypatch):
    paraphraser = Paraphraser(writer())
    drawn = [("The  CAT sit", True), ("a man", True), ("A man", False), ("", True), ("fish", True)]
    monkeypatch.setattr(paraphraser, "draws", lambda text, sampling: drawn)
    found = paraphraser.similar("the cat sit", HOT, rerank=False)
    assert [(one.text, one.finished) for one in found] == [("a man", True), ("fish", True)]
    monkeypatch.setattr(paraphraser, "draws", lambda text, sampling: drawn[:1])
    assert paraphraser.similar("the cat sit", HOT) == []


def test_without_ranking_they_come_as_they_were_drawn():
    paraphraser = Paraphraser(writer())
    ranked, plain = (
        [one.text for one in paraphraser.similar("a man", HOT, rerank=rerank)]
        for rerank in (True, False)
    )
    assert sorted(ranked) == sorted(plain) and ranked != plain
    drawn = [text for text, _ in paraphraser.draws("a man", HOT)]
    assert [drawn.index(text) for text in plain] == sorted(drawn.index(text) for text in plain)


def test_what_is_written_without_spaces_is_read_without_them():
    words = {5: "怎", 6: "么", 7: "?", 8: "old", 9: "iphone", 10: "换"}

    class Joined:
        all_special_ids = ()
        sep_token_id = cls_token_id = 0

        def get_vocab(self):
            return {}

        def decode(self, tokens, skip_special_tokens):
            return " ".join(words[token] for token in tokens)

    spelling = Spelling(Joined(), 11, 9)
    assert spelling.read([5, 6, 10, 7, -1])[0] == "怎么换?"
    assert spelling.read([8, 9, 10, 5])[0] == "old iphone换怎"


def test_a_model_comes_back_from_its_folder_with_its_decoder(folder):
    loaded = Paraphraser.from_pretrained(folder)
    assert loaded.encoder.decoder.max_tokens == MAX_TOKENS
    before, after = (one.similar("the fish", HOT) for one in (Paraphraser(writer()), loaded))
    assert [one.text for one in before] == [one.text for one in after]


def test_the_command_prints_each_sentence_with_its_cosine(simjax, folder, tmp_path):
    arguments = ["generate", folder, "the cat", "a man", "--count", COUNT, "--temperature", 2]
    status, out, err = simjax(*arguments, "--json", tmp_path / "x.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    texts = json.loads((tmp_path / "x.json").read_text())["texts"]
    assert [entry["text"] for entry in texts] == ["the cat", "a man"]
    expected = []
    for entry in texts:
        expected.append(entry["text"])
        for one in entry["similar"]:
            end = "" if one["finished"] else " ..."
            expected.append(f"  {one['score']:.4f}  {one['text']}{end}")
    assert lines == expected and len(lines) > 8
    again = simjax(*arguments).out
    assert again == out and simjax(*arguments, "--seed", 5).out != out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["  "], "TEXT: one is empty"),
        ([], "the following arguments are required: TEXT"),
        (["a", "--sample"], "--sample writes from latents of the prior: leave TEXT out"),
        (["a", "--interpolate", "2"], "--interpolate: give two TEXTs, not 1"),
        (["a", "--latent_layers", "1"], "--latent_layers is for --interpolate"),
        (["a", "--top_p", "1.5"], "--top_p is 1.5: give a number above 0, up to 1"),
        (["a", "--temperature", "0"], "--temperature is 0.0: give a number above 0"),
        (["a", "--max_length", "30"], "--max_length is 30: the model was trained on texts of at"),
    ],
)
def test_what_was_called_wrongly_is_said(simjax, folder, arguments, says):
    status, out, err = simjax("generate", folder, *arguments)
    assert (status, out) == (2, "") and says in err


def test_a_model_without_a_decoder_is_refused(simjax, tmp_path):
    encoder = writer().replace(writer().params)
    encoder.save_pretrained(tmp_path / "plain")
    status, _, err = simjax("generate", tmp_path / "plain", "a man")
    assert status == 1 and "plain: the model has no decoder to write with" in err
    with pytest.raises(SimjaxError, match="has no decoder"):
        Paraphraser(encoder)


def test_nothing_is_not_written_about():
    with pytest.raises(UsageError, match="the text is empty"):
        Paraphraser(writer()).similar(" ", HOT)
    with pytest.raises(UsageError, match="vocabulary has none of the words of '怎么 换'"):
        Paraphraser(writer()).similar("怎么 换", HOT)
    assert Paraphraser(writer()).similar("怎么 cat", HOT)
