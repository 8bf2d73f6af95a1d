"""The door to files, on the local disk: plain paths and file URIs, spaces, other alphabets, atomic writes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marspipe.errors import InputError
from marspipe.store import storage


@pytest.fixture(params=["plain", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder with a space, umlauts and a percent sign in its name, as path or as file URI."""
    path = tmp_path / "пробa ü 100% #1"
    path.mkdir()
    return str(path) if request.param == "plain" else path.as_uri()


def test_write_read_list(folder: str) -> None:
    uri = storage.join(folder, "raw data", "stück 1.bin")
    data = bytes(range(256)) * 40
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, 255, 3) == b"\xff\x00\x01"
    assert storage.read_bytes(uri, len(data) - 1) == b"\xff"
    assert storage.read_bytes(uri, len(data) + 5, 3) == b""
    assert storage.size(uri) == len(data)
    assert storage.list_dir(storage.join(folder, "raw data")) == ["stück 1.bin"]
    assert storage.exists(uri)
    assert not storage.is_dir(uri)
    assert storage.is_dir(storage.join(folder, "raw data"))
    with storage.open_input(uri) as file:
        file.seek(-2, os.SEEK_END)
        assert file.tell() == len(data) - 2
        assert file.read() == b"\xfe\xff"
    assert Path(storage.split(uri)[1]).read_bytes() == data


def test_write_replaces_only_if_asked(folder: str) -> None:
    uri = storage.join(folder, "x")
    storage.write_bytes(uri, b"one")
    with pytest.raises(FileExistsError) as caught:
        storage.write_bytes(uri, b"two")
    assert caught.value.filename == uri
    assert storage.read_bytes(uri) == b"one"
    storage.write_bytes(uri, bytearray(b"three"), overwrite=True)
    assert storage.read_bytes(uri) == b"three"
    assert storage.list_dir(folder) == ["x"]


def test_failed_write_leaves_nothing(folder: str) -> None:
    storage.make_dirs(storage.join(folder, "taken", "inner"))
    with pytest.raises(OSError, match="taken"):
        storage.write_bytes(storage.join(folder, "taken"), b"data", overwrite=True)
    assert storage.list_dir(folder) == ["taken"]
    assert storage.list_dir(storage.join(folder, "taken")) == ["inner"]


def test_a_killed_write_leaves_no_half_file(tmp_path: Path) -> None:
    """The process dies inside the write: the final name does not appear."""
    program = (
        "import os, sys\n"
        "from marspipe.store import storage\n"
        "os.fsync = lambda descriptor: os._exit(9)\n"
        "storage.write_bytes(sys.argv[1], b'x' * 100000)\n"
    )
    target = tmp_path / "big.bin"
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 9
    assert not target.exists()


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (storage.open_input, FileNotFoundError),
        (storage.read_bytes, FileNotFoundError),
        (storage.size, FileNotFoundError),
        (storage.list_dir, FileNotFoundError),
        (storage.remove, FileNotFoundError),
    ],
)
def test_missing_file_is_named(folder: str, action: object, error: type[OSError]) -> None:
    uri = storage.join(folder, "nothing here")
    with pytest.raises(error) as caught:
        action(uri)  # type: ignore[operator]
    assert caught.value.filename == uri
    assert uri in str(caught.value)
    assert not storage.exists(uri)


def test_files_where_folders_belong_and_back(folder: str) -> None:
    uri = storage.join(folder, "file")
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""
    with pytest.raises(NotADirectoryError):
        storage.list_dir(uri)
    with pytest.raises(OSError, match="file"):
        storage.make_dirs(uri)
    with pytest.raises(NotADirectoryError):
        storage.write_bytes(storage.join(uri, "below"), b"")
    with pytest.raises(IsADirectoryError):
        storage.open_input(folder)


NOBODY = 65534


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Drop root's rights, to whom every folder is open."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield
    if root:
        os.seteuid(0)


def test_folder_without_permission(open_folder: Path, ordinary_user: None) -> None:
    locked = str(open_folder / "locked")
    with pytest.raises(PermissionError) as caught:
        storage.write_bytes(storage.join(locked, "x"), b"")
    assert caught.value.filename == storage.join(locked, "x")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, with a ``locked`` one in it that nobody may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "locked").mkdir()
        (folder / "locked").chmod(0o555)
        yield folder


def test_make_rename_remove(folder: str) -> None:
    a, b = storage.join(folder, "a", "b", "c"), storage.join(folder, "z")
    storage.make_dirs(a)
    storage.make_dirs(a)
    storage.write_bytes(storage.join(a, "x"), b"1")
    storage.rename(storage.join(folder, "a"), b)
    assert storage.read_bytes(storage.join(b, "b", "c", "x")) == b"1"
    storage.write_bytes(storage.join(folder, "y"), b"2")
    with pytest.raises(FileExistsError):
        storage.rename(storage.join(folder, "y"), storage.join(b, "b", "c", "x"))
    with pytest.raises(FileNotFoundError):
        storage.rename(storage.join(folder, "a"), storage.join(folder, "q"))
    storage.remove(storage.join(b, "b", "c", "x"))
    storage.remove_tree(b)
    storage.remove_tree(b)
    storage.remove_tree(storage.join(folder, "y"))
    assert storage.list_dir(folder) == []


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    storage.remove_tree(str(tmp_path / "link"))
    assert storage.list_dir(str(tmp_path)) == ["kept"]
    assert storage.exists(str(tmp_path / "kept" / "x"))


@pytest.mark.parametrize("root", ["/", "file:///", "hdfs://namenode:9000/"])
def test_the_root_is_not_removed(root: str) -> None:
    with pytest.raises(InputError, match="root of a file system"):
        storage.remove_tree(root)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("/data/a b", ("", "/data/a b")),
        ("data/100%", ("", "data/100%")),
        ("file:/data/x", ("", "/data/x")),
        ("file:///data/a%20%C3%BC", ("", "/data/a ü")),
        ("file://localhost/data", ("", "/data")),
        ("hdfs://namenode:9000/a b/%20", ("hdfs://namenode:9000", "/a b/%20")),
        ("hdfs://nameservice", ("hdfs://nameservice", "/")),
        ("HDFS://h:1/x", ("hdfs://h:1", "/x")),
        ("viewfs://cluster/x", ("viewfs://cluster", "/x")),
        ("2024-05-06T07:08/x", ("", "2024-05-06T07:08/x")),
    ],
)
def test_split(uri: str, parts: tuple[str, str]) -> None:
    assert storage.split(uri) == parts


@pytest.mark.parametrize("uri", ["s3://bucket/x", "https://host/x", "file://other/x", "hdfs:/x"])
def test_split_refuses(uri: str) -> None:
    with pytest.raises(InputError, match=uri):
        storage.split(uri)


def test_join() -> None:
    assert storage.join("/a/", "b c", "d") == "/a/b c/d"
    assert storage.join("hdfs://h:9000/", "b c", "ü") == "hdfs://h:9000/b c/ü"
    assert storage.join("file:///a%20b", "c d") == "file:///a%20b/c%20d"


def test_arrow_filesystem(folder: str) -> None:
    uri = storage.join(folder, "t.parquet")
    filesystem, path = storage.arrow_filesystem(uri)
    pq.write_table(pa.table({"a": [1, 2]}), path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem)["a"].to_pylist() == [1, 2]
    assert storage.list_dir(folder) == ["t.parquet"]


def test_import_is_light() -> None:
    heavy = "('pyspark', 'pydicom', 'hdfs_native', 'pyarrow')"
    program = f"import sys, marspipe.store.storage; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
