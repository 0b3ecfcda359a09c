"""Which published systems a recipe is made of, and that whoever reads its model is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from simjax.cli.main import main
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import config as run_config
from simjax.train.config import ModelConfig, TokenizerConfig
from simjax.train.finish import export_model
from simjax.train.published import PUBLISHED, systems

CONFIGS = Path(__file__).parents[2] / "configs"
SIMCSE = ["InfoNCE", "unsupervised SimCSE"]
PAIRS = ("--data.views=columns",)
CASES = [
    ("quickstart", (), ["InfoNCE"]),
    ("nli_small", (), ["InfoNCE", "supervised SimCSE"]),
    ("nli_small", ("--objective.mlm.weight=0.1",), "SimCSE's masked language modelling"),
    ("siglip_quora", ("--objective.mlm.weight=0.1",), ["SigLIP"]),
    ("nli_small", ("--objective.guide.model=x",), "GISTEmbed"),
    ("mixture_small", (), ["InfoNCE", "supervised SimCSE"]),
    ("nli_small", ("--objective.loss=dcl",), ["DCL", "supervised SimCSE"]),
    ("simcse_wiki", (), SIMCSE),
    ("simcse_wiki", ("--data.augment=[{kind: repeat}]",), [*SIMCSE, "ESimCSE's repetition"]),
    ("simcse_wiki", ("--data.augment=[{kind: shuffle}]",), [*SIMCSE, "ConSERT's augmentations"]),
    ("simcse_wiki", ("--data.augment=[{kind: mask}]",), SIMCSE),
    ("simcse_wiki", ("--data.dropout_masks=none",), ["InfoNCE"]),
    ("simcse_wiki", ("--data.dropout_masks=shared",), ["InfoNCE"]),
    ("simcse_wiki", ("--data.augment=[{kind: delete}]", "--model.dropout=0"), ["InfoNCE"]),
    ("flatnce_small_batch", (), ["FlatNCE", "unsupervised SimCSE"]),
    ("simclr_nli", (), ["InfoNCE", "SimCLR"]),
    ("large_batch_pairs", (), ["InfoNCE", "GTE"]),
    ("matryoshka_nli", (), ["InfoNCE", "supervised SimCSE", "Matryoshka"]),
    ("siglip_quora", (), ["SigLIP"]),
    ("ct_wiki", (), ["Contrastive Tension"]),
    ("ct_in_batch_wiki", (), ["Contrastive Tension in the batch"]),
    ("sbert_softmax_quora", (), ["Sentence-BERT's classification", "R-Drop"]),
    ("cosine_stsb", (), ["Sentence-BERT's regression"]),
    ("triplet_nli", (), ["Sentence-BERT's triplets"]),
    ("cosent_stsb", (), ["CoSENT"]),
    ("angle_stsb", (), ["AnglE's angles"]),
    ("simbert_small", (), ["InfoNCE", "SimBERT"]),
    ("simbert_small", ("--objective.directions=joint",), ["InfoNCE", "GTE"]),
    ("roformer_sim_small", (), ["InfoNCE", "RoFormer-Sim"]),
    ("roformer_sim_distil", (), ["RoFormer-Sim", "distillation of similarities"]),
    ("roformer_sim_supervised", (), "RoFormer-Sim's supervised stage"),
    ("roformer_sim_distil", ("--objective.seq2seq.rate=0",), ["distillation of similarities"]),
    ("distil_minilm", (), ["distillation of similarities"]),
    ("distil_minilm", ("--objective.target=cosine",), ["distillation of embeddings"]),
    ("distil_minilm", ("--objective.target=embedding",), ["distillation of embeddings"]),
    ("distil_minilm", ("--objective.target=margin", *PAIRS), ["margin-MSE"]),
    ("distil_minilm", ("--objective.target=kl", *PAIRS), ["distillation of softmax probabilities"]),
    ("univae_small", (), ["UniVAE"]),
]


@pytest.mark.parametrize(("recipe", "overrides", "expected"), CASES)
def test_a_recipe_names_its_systems(recipe, overrides, expected) -> None:
    found = [one.name for one in systems(run_config.load(CONFIGS / f"{recipe}.yaml", overrides))]
    assert expected in found if isinstance(expected, str) else found == expected


def test_every_system_is_chosen_by_one_of_these_and_every_recipe_names_one() -> None:
    names = [name for *_, found in CASES for name in ([found] if isinstance(found, str) else found)]
    assert {*names} == {one.name for one in PUBLISHED}
    for path in CONFIGS.glob("**/*.yaml"):
        assert systems(run_config.load(path)), path.name


def test_the_readme_has_their_sources() -> None:
    readme = (CONFIGS.parent / "README.md").read_text()
    for one in PUBLISHED:
        assert one.source.removeprefix("arXiv ").removeprefix("github.com/") in readme, one


def test_the_card_of_a_second_stage_tells_of_that_alone(whole, tmp_path) -> None:
    export = str(Path(whole[0].output) / "export")
    encoder = SentenceEncoder.from_pretrained(export)
    model, tokenizer = ModelConfig(pretrained=export), TokenizerConfig()
    second = dataclasses.replace(whole[0], model=model, tokenizer=tokenizer)
    export_model(second, encoder, tmp_path / "second", step=1, scores={}, overwrite=False)
    card = (tmp_path / "second" / "README.md").read_text()
    assert "\n* Trained, from a pretrained model, by: InfoNCE (" in card
    # The shape in the recipe is not that of the pretrained model.
    assert "\n  pretrained: export\n" in card and "hidden_size" not in card
    encoder.save_pretrained(tmp_path / "other")
    assert "A sentence encoder written with simjax" in (tmp_path / "other/README.md").read_text()


def test_the_help_and_the_card_of_a_run_name_them(whole, capsys) -> None:
    assert main(["train", "--help"]) == 0
    told = capsys.readouterr().out
    for one in PUBLISHED:
        assert f"  {one.name} ({one.source}): {one.keys}\n" in told
    card = (Path(whole[0].output) / "export" / "README.md").read_text()
    assert "\n* Trained by: InfoNCE (arXiv 1807.03748), supervised SimCSE (arXiv 2104." in card
