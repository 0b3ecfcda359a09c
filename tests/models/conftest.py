import pytest

from tests.tiny_models import write_folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return {family: write_folder(root / family, family) for family in ("bert", "roberta")}


@pytest.fixture
def bert(folders, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in folders["bert"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
