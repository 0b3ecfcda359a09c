"""Models that are exported to URLs."""

from pathlib import Path

import fsspec
import pytest

from simjax import remote
from simjax.cli.main import main
from simjax.errors import SimjaxError, UsageError
from simjax.train import finish


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a model."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("README.md", "1_Pooling/config.json", "config.json", "model.safetensors"):
        (folder / name).write_text(f"content of {name}")
    (folder / remote.OURS).write_text('{"__version__": {"simjax": "1"}}')
    return folder


@pytest.fixture(params=["memory", "file"])
def url(tmp_path, request):
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return "memory://bucket/m" if request.param == "memory" else f"file://{tmp_path}/there/m"


def files(url):
    filesystem, place = fsspec.core.url_to_fs(url)
    found = filesystem.find(place)
    return {path.removeprefix(f"{place}/"): filesystem.cat_file(path) for path in found}


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_folder_comes_there_whole_and_is_replaced_when_asked(model, url) -> None:
    remote.upload_model(model, url, overwrite=False)
    assert files(url) == contents(model)
    with pytest.raises(SimjaxError, match=r"m: is not empty; choose another, or --overwrite"):
        remote.upload_model(model, url, overwrite=False)
    (model / "README.md").unlink()
    (model / "2_Dense.json").write_text("more")
    remote.upload_model(model, f"{url}/", overwrite=True)
    assert files(url) == contents(model)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_upload_that_is_cut_off_leaves_no_model(model, url, monkeypatch, overwrite) -> None:
    if overwrite:
        remote.upload_model(model, url, overwrite=False)
    upload, left = remote.upload, [1]

    def cut(*args):
        if not left[0]:
            raise OSError("the network is gone")
        left[0] -= 1
        upload(*args)

    monkeypatch.setattr(remote, "upload", cut)
    with pytest.raises(SimjaxError, match=r"m: cannot be written \(the network is gone\)"):
        remote.upload_model(model, url, overwrite=overwrite)
    assert remote.MODEL not in files(url) and remote.OURS in files(url)
    monkeypatch.setattr(remote, "upload", upload)
    remote.upload_model(model, url, overwrite=True)
    assert files(url) == contents(model)


def test_what_is_not_ours_is_never_overwritten(model, url) -> None:
    filesystem, place = fsspec.core.url_to_fs(url, auto_mkdir=True)
    filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(place, b"a file")
    with pytest.raises(SimjaxError, match="m: is a file; choose a folder"):
        remote.upload_model(model, url, overwrite=True)
    filesystem.rm_file(place)
    filesystem.makedirs(place, exist_ok=True)
    filesystem.pipe_file(f"{place}/a.txt", b"theirs")
    with pytest.raises(SimjaxError, match="holds something that simjax did not export"):
        remote.upload_model(model, url, overwrite=True)
    assert files(url) == {"a.txt": b"theirs"}


def test_a_file_that_arrives_cut_is_no_upload(model, url, monkeypatch) -> None:
    filesystem, _ = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(type(filesystem), "size", lambda self, path: 1)
    with pytest.raises(SimjaxError, match=r"m: cannot be written \(.* came there incomplete\)"):
        remote.upload_model(model, url, overwrite=False)
    assert remote.MODEL not in files(url)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("gs://bucket/a", "gs://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("file:///tmp/a", "file:///tmp/a"),
        ("a/b", None),
        ("C:/b", None),
        ("glue/stsb:1.0", None),
        (None, None),
    ],
)
def test_urls_are_told_from_paths(path, url) -> None:
    assert remote.is_url(path) == (url is not None)
    if url is not None:
        assert remote.as_url(path) == url
        with pytest.raises(UsageError, match=f"^output is {url}: must be on a file system here"):
            remote.check_local("output", path)
    else:
        remote.check_local("output", path)


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "model", "x.txt", "gs://bucket/x.npy"],
        ["index", "x.npy", "gs://bucket/index"],
        ["mine", "model", "x.csv", "gs://bucket/x.csv"],
        ["evaluate", "model", "--json", "gs://bucket/x.json"],
        ["lab", "bench", "loss", "--json", "gs://bucket/x.json"],
        ["lab", "scaling", "--output", "gs://bucket/x"],
    ],
)
def test_what_is_written_here_is_not_written_to_a_url(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "is a URL; name a place on a file system here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_card_does_not_tell_whose_bucket_it_was() -> None:
    recipe = {"data": {"source": {"path": "gs://firm/secret/part-*.csv", "anchor": "a/b"}}}
    told = finish._without_paths(recipe)
    assert told == {"data": {"source": {"path": "part-*.csv", "anchor": "a/b"}}}
    recipe = {"data": {"source": {"path": "ftp://me:secret@host", "anchor": "sftp://me@h/x?k=v"}}}
    assert finish._without_paths(recipe) == {"data": {"source": {"path": "host", "anchor": "x"}}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://me:secret@host/m", "ftp://host/m"),
        ("ftp:/me@host/m", "ftp:/host/m"),
        ("ftp://me:se@cret@host/a@b", "ftp://host/a@b"),
        ('at "s3://k:s@b/m?token=x&v=1" and s3://k:s@b', 'at "s3://b/m" and s3://b'),
        ("gs://bucket/part-?.csv", "gs://bucket/part-?.csv"),
        ("gs://bucket/part-?/day=1/a.csv", "gs://bucket/part-?/day=1/a.csv"),
        ("file:///tmp/a@b", "file:///tmp/a@b"),
        ("me@host: why? a=b", "me@host: why? a=b"),
    ],
)
def test_secrets_are_left_out(text, told) -> None:
    assert remote.without_secrets(text) == told


def test_no_error_tells_a_secret() -> None:
    url = "ftp://me:sec%40ret@host/m"
    with pytest.raises(SimjaxError) as caught, remote.complaints(url, "be read"):
        raise OSError(f"sec@ret is not\nthe name of me at {url}?x=y")
    line = "ftp://host/m: cannot be read (*** is not the name of *** at ftp://host/m)"
    assert str(caught.value) == line
    with pytest.raises(UsageError, match=r"^output is ftp://host/m: must be"):
        remote.check_local("output", url)
