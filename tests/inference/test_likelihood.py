"""-log p of a text behind another, against PyTorch under a mask that is written out."""

import numpy as np
import pytest
import torch

from simjax.errors import SimjaxError
from simjax.inference.likelihood import Likelihood
from simjax.models import hf
from simjax.models.decoder import Decoder
from simjax.sentence_encoder import SentenceEncoder
from tests.models.test_lm_head import head_of, saved_peer
from tests.models.test_segments import seen
from tests.tiny_models import bert_tokenizer

MAX_TOKENS = 13
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
    decoder = Decoder(head_of(tmp_path, model.config), MAX_TOKENS)
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


def test_it_takes_a_decoder(tmp_path):
    saved_peer("bert", tmp_path, vocab_size=len(bert_tokenizer()))
    encoder = SentenceEncoder(hf.load(tmp_path).model, bert_tokenizer())
    with pytest.raises(SimjaxError, match=r"no decoder; one is trained with objective\.seq2seq"):
        Likelihood(encoder)
