"""Small random models of transformers, one of each family."""

import torch
import transformers

from tests.models.packed_rows import LENGTHS

_BERT = {"type_vocab_size": 2, "pad_token_id": 0}
_ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1}
PEERS = {
    "bert": ("Bert", _BERT),
    "roberta": ("Roberta", _ROBERTA),
    "xlm-roberta": ("XLMRoberta", _ROBERTA),
    "camembert": ("Camembert", _ROBERTA),
    "distilbert": ("DistilBert", {"pad_token_id": 0}),
    "electra": ("Electra", _BERT | {"embedding_size": 16}),
    "mpnet": ("MPNet", {"pad_token_id": 1}),
    "albert": ("Albert", _BERT | {"embedding_size": 16, "hidden_act": "gelu_new"}),
    "roformer": ("RoFormer", _BERT | {"embedding_size": 16}),
    "modernbert": (
        "ModernBert",
        {
            "pad_token_id": 0,
            # Windows that end inside of texts, and both kinds of layers.
            "local_attention": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "bos_token_id": None,
            "eos_token_id": None,
            "cls_token_id": None,
            "sep_token_id": None,
        },
    ),
}
_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


def random_peer(family, **changes):
    """A model with random biases and norms as well, which would hide their being mixed up."""
    name, own = PEERS[family]
    torch.manual_seed(0)
    shape = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        # No spare row: an offset that is one too large would read past the table.
        "max_position_embeddings": max(LENGTHS) + (2 if own["pad_token_id"] else 0),
        "initializer_range": 0.2,
    }
    shape |= own | changes
    if family == "distilbert":
        shape = {_DISTILBERT.get(key, key): value for key, value in shape.items()}
    config = getattr(transformers, f"{name}Config")(**shape)
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def peer_states(model, texts):
    """Hidden states behind the first and the last layer, one text at a time, in float32."""
    states = []
    for text in texts:
        with torch.no_grad():
            output = model(torch.tensor([text]), output_hidden_states=True)
        found = (output.hidden_states[1], output.last_hidden_state)
        states.append([state[0].numpy() for state in found])
    return states
