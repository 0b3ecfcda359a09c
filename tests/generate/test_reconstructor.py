"""Texts written from latents, against whole passes, from the library and the command line."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.data.paraphrases import pack_pairs
from simjax.errors import SimjaxError, UsageError
from simjax.generate.paraphraser import Paraphraser
from simjax.generate.reconstructor import Reconstructor
from simjax.generate.sampling import SamplingConfig
from simjax.generate.writing import read_latents, write_on
from simjax.models import latents
from simjax.models.latents import LatentsConfig
from tests.cli.conftest import simjax as simjax
from tests.generate.writers import TEXT_LENGTH, writer
from tests.models.quick import quick_jit

SPHERE = LatentsConfig(layers=2, size=5, kappa=20.0)
GREEDY = SamplingConfig(count=1, top_k=1)
FRONT = [2, 5, 7, 9, 6, 3]
ROOM = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    encoder = writer(latents=SPHERE)
    return encoder.save_pretrained(tmp_path_factory.mktemp("writer") / "model")


@cache
def passes(family):
    """Logits at every place of a row, for latents that are given, in one program."""
    encoder = writer(family, latents=SPHERE)
    model, decoder = encoder.model, encoder.decoder

    def logits(block, values):
        choose = latents.given(values[:, None, None])
        states = latents.pass_through(model.encoder, decoder.latents, block, choose).states
        return decoder.head(states[0], model.encoder.embeddings.word.embedding[...])

    return quick_jit(logits)


def whole_pass(family, values, behind):
    """Logits of the token behind each of `behind`'s, which begins a text, from one pass."""
    both = np.asarray(FRONT + behind, np.int32)
    lengths = np.asarray([[[len(FRONT), len(behind)]]])
    block = pack_pairs(
        both, np.asarray([[[0, len(FRONT)]]]), lengths, *np.zeros((2, 1, 1), int),
        rows=1, row_length=2 * TEXT_LENGTH, whole=True,
    )  # fmt: skip
    found = passes(family)(jax.tree.map(jnp.asarray, block), values)
    return np.asarray(found)[len(FRONT) : len(FRONT) + len(behind)]


@pytest.mark.parametrize("family", ["bert", "roformer", "albert"])
def test_cached_steps_give_the_logits_of_a_whole_pass(family):
    encoder = writer(family, latents=SPHERE)
    start = encoder.tokenizer.cls_token_id
    behind = np.random.default_rng(0).integers(5, 40, (3, ROOM))
    values = latents.prior(SPHERE, jax.random.key(0), 3)

    @quick_jit
    def steps(behind, values):
        model, decoder = encoder.model, encoder.decoder
        front = read_latents(model, decoder.head, decoder.latents, values, start, ROOM)
        cache, found = front.cache, [front.logits]
        for number in range(ROOM):
            logits, cache = write_on(model, decoder.head, front, cache, behind[:, number], number)
            found.append(logits)
        return jnp.stack(found, axis=1)

    found = np.asarray(steps(jnp.asarray(behind), values))
    for number, text in enumerate(behind.tolist()):
        expected = whole_pass(family, values[:, number], [start, *text])
        np.testing.assert_allclose(found[number], expected, atol=1e-4)


def test_the_likeliest_tokens_are_written_from_the_means_of_a_text_s_latents():
    encoder = writer(latents=SPHERE)
    reconstructor, tokenizer = Reconstructor(encoder), encoder.tokenizer
    values = reconstructor.latents("the cat sit")
    behind = [tokenizer.cls_token_id]
    banned = [i for i in tokenizer.all_special_ids if i != tokenizer.sep_token_id]
    while len(behind) < TEXT_LENGTH:
        logits = whole_pass("bert", jnp.asarray(values), behind)[-1].copy()
        logits[banned if len(behind) > 1 else tokenizer.all_special_ids] = -np.inf
        behind.append(int(logits.argmax()))
        if behind[-1] == tokenizer.sep_token_id:
            break
    ((one,),) = reconstructor.reconstruct(["the cat sit"], GREEDY)
    assert one.text == tokenizer.decode(behind, skip_special_tokens=True)
    assert one.finished == (behind[-1] == tokenizer.sep_token_id)


def test_latents_of_a_text_are_its_embedding_s():
    encoder = writer(latents=SPHERE)
    of_latents = type(encoder)(
        encoder.model, encoder.tokenizer, max_length=TEXT_LENGTH, decoder=encoder.decoder,
        of_latents=True,
    )  # fmt: skip
    found = Reconstructor(encoder).latents("the man run")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    expected = of_latents.encode("the man run") * np.sqrt(SPHERE.layers)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


def test_each_text_s_draws_are_its_own():
    reconstructor = Reconstructor(writer(latents=SPHERE))
    texts = ["the cat", "a man", "fish"]
    hot = SamplingConfig(count=20, temperature=2.0)
    found = reconstructor.reconstruct(texts, hot)
    assert [len(part) for part in found] == [20] * 3
    assert found == reconstructor.reconstruct(texts, hot)
    assert len({one.text for part in found for one in part}) > 40
    cold = reconstructor.reconstruct(texts, GREEDY)
    assert cold == [reconstructor.reconstruct([text], GREEDY)[0] for text in texts]


def test_latents_go_over_layer_by_layer():
    reconstructor = Reconstructor(writer(latents=SPHERE))
    one, other = (reconstructor.latents(text) for text in ("the cat sit", "a man"))
    for share, wanted in ((0.0, one), (1.0, other)):
        np.testing.assert_allclose(reconstructor.between(one, other, share), wanted, atol=1e-5)
    half = reconstructor.between(one, other, 0.5, layers=[2])
    np.testing.assert_array_equal(half[0].round(6), one[0].round(6))
    np.testing.assert_allclose(half[1] @ one[1], half[1] @ other[1], atol=1e-5)
    with pytest.raises(UsageError, match="latent_layers has 3: the model has layers 1 to 2"):
        reconstructor.between(one, other, 0.5, layers=[3])


def test_the_prior_is_spread_over_the_sphere():
    found = Reconstructor(writer(latents=SPHERE)).prior(2000, seed=3)
    assert found.shape == (2000, 2, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(found[:, 0].T), np.eye(5) / 5, atol=0.03)


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 3, 5), (2, 5)])
def test_latents_of_another_width_are_refused(shape):
    with pytest.raises(UsageError, match=r"the model has 2 of 5 dimensions, so give \[N, 2, 5\]"):
        Reconstructor(writer(latents=SPHERE)).write(np.zeros(shape), GREEDY)


def test_each_kind_of_decoder_is_asked_for_what_it_does(simjax, tmp_path):
    with pytest.raises(SimjaxError, match="the model has no latents to write from"):
        Reconstructor(writer())
    with pytest.raises(SimjaxError, match="writes a text again from its latents"):
        Paraphraser(writer(latents=SPHERE))
    writer().save_pretrained(tmp_path / "plain")
    for arguments in (["--sample"], ["a", "b", "--interpolate", "2"]):
        status, out, err = simjax("generate", tmp_path / "plain", *arguments)
        assert (status, out) == (1, "") and "plain: the model has no latents to write from" in err


def test_the_command_writes_texts_again(simjax, folder, tmp_path):
    status, out, err = simjax("generate", folder, "the cat", "a man", "--json", tmp_path / "x.json")
    assert (status, err) == (0, "")
    expected = []
    for entry in json.loads((tmp_path / "x.json").read_text())["texts"]:
        ((one,),) = Reconstructor.from_pretrained(folder).reconstruct([entry["text"]], GREEDY)
        assert entry["reconstructions"] == [vars(one)]
        expected += [entry["text"], f"  {one.text}{'' if one.finished else ' ...'}"]
    assert out.splitlines() == expected
    hot = simjax("generate", folder, "the cat", "--count", 3, "--temperature", 2).out
    assert len(set(hot.splitlines()[1:])) == 3
    # Of several, the likeliest would be one text as often.
    drawn = ["generate", folder, "the cat", "--count", 20]
    assert len(set(simjax(*drawn).out.splitlines()[1:])) > 1
    assert simjax(*drawn, "--seed", 1).out != simjax(*drawn).out


def test_what_latents_have_no_use_for_is_refused(simjax, folder):
    for option in ("--rerank", "--no-rerank"):
        status, out, err = simjax("generate", folder, "the cat", option)
        assert (status, out) == (2, "") and "--rerank and --no-rerank are for paraphrases" in err
    with pytest.raises(UsageError, match="vocabulary has none of the words"):
        Reconstructor.from_pretrained(folder).latents("怎么")


def test_the_command_samples_and_interpolates(simjax, folder, tmp_path):
    json_file = tmp_path / "x.json"
    status, out, err = simjax("generate", folder, "--sample", "--count", 4, "--json", json_file)
    assert (status, err) == (0, "") and len(out.splitlines()) == 4
    assert len(json.loads(json_file.read_text())["samples"]) == 4
    assert simjax("generate", folder, "--sample", "--count", 4, "--seed", 1).out != out
    way = ["generate", folder, "--interpolate", 4, "the cat sits", "a man"]
    steps = simjax(*way).out.splitlines()
    assert [line[:4] for line in steps] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    ends = simjax("generate", folder, "the cat sits", "a man").out.splitlines()
    assert [line[6:] for line in (steps[0], steps[-1])] == [line[2:] for line in ends[1::2]]
    status, _, err = simjax(*way, "--latent_layers", 3)
    assert status == 2 and "--latent_layers has 3: the model has layers 1 to 2" in err
