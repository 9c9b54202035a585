"""Objects in a folder: whole or not at all, and never outside of it."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from penstock.errors import NotFound, StorageFull
from penstock.storage.objects import Folder, of_account

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    "../a",
    "a/../b",
    "a/..",
    ".hidden",
    "a/.b",
    "a..b",
    "a\\b",
    "a\x00b",
    "a b",
    "A",
    "é",
    "a\n",
    "a/~part-1",
    "x" * 101,
    "/".join("abcdefghi"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "objects")


def put(folder: Folder, key: str, content: bytes = b"content") -> None:
    with folder.writing(key) as file:
        file.write(content)


def files(folder: Folder) -> list[str]:
    return sorted(str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file())


def test_an_object_is_there_once_it_is_complete(folder: Folder) -> None:
    with folder.writing("a/b") as file:
        file.write(b"first")
        assert folder.size("a/b") is None
        with pytest.raises(NotFound):
            folder.open("a/b")
    assert folder.size("a/b") == 5
    with folder.open("a/b") as file:
        assert file.read() == b"first"
    with folder.writing("a/b") as file:
        file.write(b"another")
        with folder.open("a/b") as before:
            assert before.read() == b"first"
    assert folder.size("a/b") == 7
    assert (folder.root / "a" / "b").stat().st_mode & 0o777 == 0o600
    assert folder.root.stat().st_mode & 0o777 == 0o700


def test_an_object_that_is_not_completed_leaves_nothing(folder: Folder) -> None:
    put(folder, "a/b", b"kept")
    writing = folder.writing("a/b")
    writing.__enter__().write(b"half")
    error = KeyError("read no further")
    assert not writing.__exit__(KeyError, error, None)
    assert files(folder) == ["a/b"]
    with folder.open("a/b") as file:
        assert file.read() == b"kept"


@pytest.mark.parametrize("key", BAD_KEYS)
def test_only_keys_of_ours_are_keys(folder: Folder, key: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"outside")
    for use in (folder.open, folder.size, folder.delete):
        with pytest.raises(ValueError, match="not a key"):
            use(key)
    with pytest.raises(ValueError, match="not a key"), folder.writing(key):
        pass
    assert not folder.root.exists()


def test_links_lead_nowhere(folder: Folder, tmp_path: Path) -> None:
    """Whoever can write into the folder cannot make the server read or delete elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    put(folder, "a/b")
    (folder.root / "a" / "link").symlink_to(outside / "secret")
    (folder.root / "a" / "way").symlink_to(outside)
    with pytest.raises(NotFound):
        folder.open("a/link")
    with pytest.raises(NotFound):
        folder.open("a/way")
    assert folder.size("a/link") is None
    put(folder, "a/link", b"mine")  # replaces the link, not what it leads to
    folder.delete("a")
    assert (outside / "secret").read_bytes() == b"secret"
    assert not folder.root.exists() or files(folder) == []


def test_what_is_below_a_key_is_deleted_and_nothing_else(folder: Folder) -> None:
    for key in ("a/b/c", "a/b/d/e", "a/bc", "a/x"):
        put(folder, key)
    assert folder.delete("a/b") == 2
    assert files(folder) == ["a/bc", "a/x"]
    assert folder.delete("a/x") == 1
    assert folder.delete("a/none") == 0
    assert folder.delete("a/bc") == 1
    assert not (folder.root / "a").exists()
    put(folder, "a/bc")  # its folder is made again


def test_writing_where_the_last_object_is_being_deleted(folder: Folder) -> None:
    """An object is written or not, whoever deletes its neighbours meanwhile."""
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            folder.delete("a/b")

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for n in range(300):
            put(folder, f"a/c{n}/d")
            folder.delete(f"a/c{n}")
    finally:
        stop.set()
        deleting.join()
    assert files(folder) == []


def test_a_full_disk_is_said(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        put(folder, "a/b")
    assert files(folder) == []


def test_accounts_of_any_name_have_keys_of_their_own() -> None:
    plain = of_account("acme", "uploads", "upl_1")
    assert plain == "accounts/acme/uploads/upl_1"
    odd = ["..", "../acme", "ACME", "auth0|7", "", "é", "~", "x" * 65, "acme/uploads", "acme\n"]
    keys = {of_account(name) for name in ("acme", *odd)}
    assert len(keys) == len(odd) + 1
    folder = Folder(Path("/nowhere"))
    for key in keys:
        assert folder._path(key).parent == Path("/nowhere/accounts")


def test_it_goes_to_other_processes(folder: Folder) -> None:
    assert pickle.loads(pickle.dumps(folder)) == folder
