"""-log p of a text behind another, against PyTorch under a mask that is written out."""

import jax
import numpy as np
import pytest
import torch
from jax.extend.core import jaxprs_in_params
from scipy.special import log_softmax

from simjax.errors import SimjaxError
from simjax.generate.reconstructor import Reconstructor
from simjax.inference import likelihood
from simjax.inference.likelihood import Likelihood
from simjax.models import hf
from simjax.models.decoder import Decoder
from simjax.sentence_encoder import SentenceEncoder
from tests.generate.test_reconstructor import SPHERE, whole_pass
from tests.generate.writers import writer
from tests.models.test_lm_head import head_of, saved_peer
from tests.models.test_segments import seen
from tests.tiny_models import bert_tokenizer

TEXT_LENGTH = 7
PAIRS = [
    ("the cat", "a man"),
    ("a", "the woman, the fish."),
    ("the man run in the park and the cat sit", "fish"),
    ("fish", "a"),
]


def test_it_is_that_of_transformers(tmp_path):
    tokenizer = bert_tokenizer()
    peer = saved_peer("bert", tmp_path, vocab_size=len(tokenizer))
    model = hf.load(tmp_path, pooling="cls").model
    decoder = Decoder(head_of(tmp_path, model.config), TEXT_LENGTH)
    encoder = SentenceEncoder(model, tokenizer, max_length=7, decoder=decoder)
    losses, tokens = Likelihood(encoder)(PAIRS * 40)  # more than one block of rows
    for number, (one, two) in enumerate(PAIRS):
        front, behind = (
            tokenizer(text, truncation=True, max_length=7)["input_ids"] for text in (one, two)
        )
        ids = front + behind[1:]
        mask = np.where(seen(len(front), len(ids)), 0.0, -1e30)
        with torch.no_grad():
            logits = peer(
                torch.tensor([ids]),
                attention_mask=torch.tensor(mask, dtype=torch.float32)[None, None],
                token_type_ids=torch.tensor([[int(n >= len(front)) for n in range(len(ids))]]),
            ).logits[0]
        expected = torch.nn.functional.cross_entropy(
            logits[len(front) - 1 : -1], torch.tensor(behind[1:]), reduction="sum"
        )
        np.testing.assert_allclose(losses[number :: len(PAIRS)], float(expected), rtol=1e-5)
        assert (tokens[number :: len(PAIRS)] == len(behind) - 1).all()


def arrays(jaxpr):
    """Shapes of all that a program makes, its loops' bodies included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from arrays(inner)


@pytest.mark.parametrize("length", [7, 400])
def test_there_are_logits_of_few_tokens_at_a_time(length, monkeypatch, tmp_path):
    tokenizer = bert_tokenizer()
    vocabulary = len(tokenizer)
    peer = {"vocab_size": vocabulary, "max_position_embeddings": 2 * length}
    saved_peer("bert", tmp_path, **peer)
    model = hf.load(tmp_path, pooling="cls").model
    decoder = Decoder(head_of(tmp_path, model.config), length)
    encoder = SentenceEncoder(model, tokenizer, max_length=length, decoder=decoder)
    made, program = [], likelihood._sums.__wrapped__

    def sums(*arguments):
        traced = jax.make_jaxpr(program, static_argnums=0)(*arguments)
        made.extend(arrays(traced.jaxpr))
        return np.zeros((2, arguments[2].first.shape[1]))

    monkeypatch.setattr(likelihood, "_sums", sums)
    Likelihood(encoder)([("the cat " * length, "a man")] * 50)
    sizes = {shape[0] for shape in made if shape[1:] == (vocabulary,)}
    assert sizes and max(sizes) <= 512
    assert not any(len(shape) > 2 and shape[-1] == vocabulary for shape in made)


def test_it_takes_a_decoder(tmp_path):
    saved_peer("bert", tmp_path, vocab_size=len(bert_tokenizer()))
    encoder = SentenceEncoder(hf.load(tmp_path).model, bert_tokenizer())
    with pytest.raises(SimjaxError, match=r"no decoder; one is trained with objective\.seq2seq"):
        Likelihood(encoder)


def test_with_latents_it_is_that_of_a_text_behind_the_other_s_latents():
    encoder = writer(latents=SPHERE)
    tokenizer, texts = encoder.tokenizer, ["the cat sits", "a man", "fish, fish"]
    pairs = [(one, other) for one in texts for other in texts]
    losses, tokens = Likelihood(encoder)(pairs * 40)  # more than one block of rows
    for number, (one, other) in enumerate(pairs):
        behind = tokenizer(other)["input_ids"]
        values = np.asarray(Reconstructor(encoder).latents(one))
        logits = whole_pass("bert", values, behind)[:-1].astype(np.float64)
        expected = -log_softmax(logits, axis=1)[np.arange(len(behind) - 1), behind[1:]].sum()
        np.testing.assert_allclose(losses[number :: len(pairs)], expected, rtol=1e-4)
        assert (tokens[number :: len(pairs)] == len(behind) - 1).all()
    assert abs(losses[0] - losses[3]) > 0.1  # of one text, behind different ones
