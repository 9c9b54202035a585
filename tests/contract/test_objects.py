"""What every place for objects does: a folder, and a bucket of S3."""

from __future__ import annotations

import base64
import hashlib
import pickle
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.errors import NotFound, StorageUnavailable
from penstock.storage.objects import Folder, Objects
from penstock.storage.objects_s3 import LARGEST_PUT, PART, Bucket
from support.s3_server import REGION, S3Server, running
from support.sqs_server import ENVIRONMENT

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running(seed=5, page=3) as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An empty bucket on a server without faults."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server.objects.clear()
    server.calls.clear()
    server.chance.seed(5)  # what goes wrong must not depend on which tests went before
    yield server
    for name in ("slow_down", "latency", "cut"):
        setattr(server.faults, name, 0.0)
    server.faults.unreachable = server.faults.forbidden = False


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    return Bucket(s3.bucket, "objects", REGION, s3.url)


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return Folder(tmp_path / "objects")
    found: Objects = request.getfixturevalue("bucket")
    return found


def put(objects: Objects, key: str, content: bytes = b"content") -> None:
    with objects.writing(key) as file:
        file.write(content)


def get(objects: Objects, key: str) -> bytes:
    with objects.open(key) as file:
        return file.read()


# ------------------------------------------------------------------ all of them


def test_an_object_is_there_once_it_is_complete(objects: Objects) -> None:
    with objects.writing("a/b") as file:
        file.write(b"first")
        assert objects.size("a/b") is None
        with pytest.raises(NotFound):
            objects.open("a/b")
    assert objects.size("a/b") == 5
    assert get(objects, "a/b") == b"first"
    put(objects, "a/b", b"another")
    assert objects.size("a/b") == 7
    assert get(objects, "a/b") == b"another"
    put(objects, "a/empty", b"")
    assert objects.size("a/empty") == 0
    assert get(objects, "a/empty") == b""


def test_what_is_written_can_be_read_before_it_is_complete(objects: Objects) -> None:
    with objects.writing("a") as file:
        file.write(b"twelve bytes")
        file.seek(0)
        assert file.read(6) == b"twelve"
        file.seek(0, 2)
        file.write(b"!")
    assert get(objects, "a") == b"twelve bytes!"


def test_an_object_that_is_not_completed_leaves_nothing(objects: Objects) -> None:
    put(objects, "a/b", b"kept")
    writing = objects.writing("a/b")
    writing.__enter__().write(b"half")
    assert not writing.__exit__(KeyError, KeyError("read no further"), None)
    assert get(objects, "a/b") == b"kept"
    assert objects.delete("a") == 1


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../a", "a/../b", ".a", "a b", "A", "a/~part-1"]
)
def test_only_keys_of_ours_are_keys(objects: Objects, key: str) -> None:
    for use in (objects.open, objects.size, objects.delete):
        with pytest.raises(ValueError, match="not a key"):
            use(key)
    with pytest.raises(ValueError, match="not a key"), objects.writing(key):
        pass


def test_what_is_below_a_key_is_deleted_and_nothing_else(objects: Objects) -> None:
    keys = ["a/b/c", "a/b/d/e", "a/b/f", "a/b/g", "a/b/h", "a/bc", "a/x"]
    for key in keys:
        put(objects, key)
    assert objects.delete("a/b") == 5
    assert [key for key in keys if objects.size(key) is not None] == ["a/bc", "a/x"]
    assert objects.delete("a/x") == 1
    assert objects.delete("a/none") == 0
    with pytest.raises(NotFound):
        objects.open("a/b/c")
    put(objects, "a/b/c", b"again")
    assert get(objects, "a/b/c") == b"again"


def test_an_object_is_read_from_any_place_in_it(objects: Objects) -> None:
    content = random.Random(1).randbytes(3 * MIB + 17)
    put(objects, "a", content)
    chance = random.Random(2)
    with objects.open("a") as file:
        for _ in range(60):
            first, size = (
                chance.randrange(len(content) + 10),
                chance.choice([0, 1, 100, MIB, MIB + 1]),
            )
            assert file.seek(first) == first
            assert file.read(size) == content[first : first + size]
        assert file.seek(-3, 2) == len(content) - 3
        assert file.read() == content[-3:]
        assert file.read(1) == b""
        file.seek(MIB)
        assert file.read() == content[MIB:]
    assert file.closed


def test_it_goes_to_other_processes_and_is_equal_there(objects: Objects) -> None:
    there = pickle.loads(pickle.dumps(objects))
    assert there == objects
    assert hash(there) == hash(objects)
    put(there, "a")
    assert get(objects, "a") == b"content"


def test_threads_share_it(objects: Objects) -> None:
    def use(n: int) -> bytes:
        put(objects, f"t/{n}", bytes([n]) * 1000)
        return get(objects, f"t/{n}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(24))) == [bytes([n]) * 1000 for n in range(24)]
    assert objects.delete("t") == 24


def test_it_says_whether_it_can_be_used(objects: Objects) -> None:
    objects.check()


# ------------------------------------------------------------------ a folder


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        Folder(tmp_path / "file" / "objects").check()
    assert Folder(tmp_path).direct is None


# ------------------------------------------------------------------ a bucket


def test_large_objects_go_in_parts_that_s3_takes(bucket: Bucket, s3: S3Server) -> None:
    """Written in pieces as small as a chunk's lines; cut by size, the same way each time."""
    content = random.Random(3).randbytes(2 * PART + 4321)
    etags = set()
    for _ in range(2):
        with bucket.writing("a/large") as file:
            for at in range(0, len(content), MIB // 3):
                file.write(content[at : at + MIB // 3])
        etags.add(s3.objects["objects/a/large"][-1].etag)
    assert s3.calls["UploadPart"] == 2 * 3
    assert len(etags) == 1
    assert next(iter(etags)).endswith("-3")
    assert get(bucket, "a/large") == content
    assert s3.multiparts == {}


def test_a_large_object_that_breaks_off_is_taken_back(bucket: Bucket, s3: S3Server) -> None:
    with (  # noqa: PT012 - the error comes at the end of the block
        pytest.raises(StorageUnavailable, match="cannot be reached"),
        bucket.writing("a/large") as file,
    ):
        file.write(b"x" * (PART + 1))
        s3.faults.forbidden = True
    s3.faults.forbidden = False
    assert bucket.size("a/large") is None


def test_a_reader_goes_on_where_a_connection_broke_off(bucket: Bucket, s3: S3Server) -> None:
    content = random.Random(4).randbytes(5 * MIB)
    put(bucket, "a", content)
    s3.faults.cut = 0.9
    assert hashlib.sha256(get(bucket, "a")).digest() == hashlib.sha256(content).digest()
    assert s3.calls["GetObject"] > 3


def test_what_is_read_is_what_was_opened(bucket: Bucket) -> None:
    put(bucket, "a", b"1" * 4 * MIB)
    with bucket.open("a") as file:
        assert file.read(1) == b"1"
        put(bucket, "a", b"2" * 4 * MIB)
        with pytest.raises(StorageUnavailable):  # never half of the one, half of the other
            file.read()


def test_a_slow_down_is_sat_out(bucket: Bucket, s3: S3Server) -> None:
    s3.faults.slow_down = 0.4
    for n in range(2):
        put(bucket, f"a/{n}")
        assert get(bucket, f"a/{n}") == b"content"
    assert s3.calls["SlowDown"] >= 1


def test_a_bucket_that_cannot_be_reached_is_not_an_object_that_is_gone(
    bucket: Bucket, s3: S3Server
) -> None:
    put(bucket, "a")
    elsewhere = Bucket("nobodys", "objects", REGION, s3.url)
    for use in (elsewhere.check, lambda: elsewhere.open("a"), lambda: put(elsewhere, "a")):
        with pytest.raises((StorageUnavailable, NotFound)):
            use()
    with pytest.raises(StorageUnavailable):
        elsewhere.size("a")
    s3.faults.forbidden = True
    for use in (bucket.check, lambda: bucket.open("a"), lambda: bucket.delete("a")):
        with pytest.raises(StorageUnavailable) as refused:
            use()
        assert s3.url not in str(refused.value)
        assert s3.bucket not in str(refused.value)
    s3.faults.forbidden, s3.faults.unreachable = False, True
    with pytest.raises(StorageUnavailable):
        bucket.check()
    nowhere = Bucket("penstock", "", REGION, "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailable):
        nowhere.check()


def test_keys_are_below_the_prefix(bucket: Bucket, s3: S3Server) -> None:
    put(bucket, "a/b")
    put(Bucket(s3.bucket, "", REGION, s3.url), "a/b", b"other")
    assert s3.keys == ["a/b", "objects/a/b"]
    assert bucket.delete("a") == 1
    assert s3.keys == ["a/b"]


# ------------------------------------------------------------------ signed URLs


def fetch(url: str, **options: object) -> tuple[int, dict[str, str], bytes]:
    """A request as any program makes it, without a credential."""
    request = urllib.request.Request(url, **options)  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()


def test_a_link_fetches_one_object_for_a_while(bucket: Bucket, s3: S3Server) -> None:
    put(bucket, "a/b", b"a result")
    link = bucket.link("a/b", media_type="text/csv; charset=utf-8", filename="r.csv", seconds=60)
    status, headers, content = fetch(link)
    assert (status, content) == (200, b"a result")
    assert headers["Content-Disposition"] == 'attachment; filename="r.csv"'
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert fetch(link.replace("/a/b?", "/a/c?"))[0] == 403
    assert fetch(link, method="PUT", data=b"mine")[0] == 403
    s3.clock = lambda: time.time() + 61
    try:
        assert fetch(link)[0] == 403
    finally:
        s3.clock = time.time
    shown = bucket.link("a/b", media_type="text/html", filename=None, seconds=60)
    assert "Content-Disposition" not in fetch(shown)[1]


def test_a_ticket_stores_one_content_and_no_other(bucket: Bucket, s3: S3Server) -> None:
    content = b"id,a\n1,2\n"
    sha256 = hashlib.sha256(content).hexdigest()
    ticket = bucket.ticket("a/b", size=len(content), sha256=sha256, seconds=60)
    assert not bucket.arrived("a/b", size=len(content), sha256=sha256)

    def send(data: bytes, headers: dict[str, str]) -> int:
        return fetch(ticket.url, method="PUT", data=data, headers=headers)[0]

    assert send(content, {}) == 403  # without the checksum it is not what was signed
    assert send(b"id,a\n1,3\n", dict(ticket.headers)) == 400  # and with it S3 compares
    assert send(content + b"more", dict(ticket.headers)) == 403
    other = hashlib.sha256(b"id,a\n1,3\n").digest()
    forged = {"x-amz-checksum-sha256": base64.b64encode(other).decode()}
    assert send(b"id,a\n1,3\n", forged) == 403
    assert bucket.size("a/b") is None
    assert send(content, dict(ticket.headers)) == 200
    assert bucket.arrived("a/b", size=len(content), sha256=sha256)
    assert not bucket.arrived("a/b", size=len(content) + 1, sha256=sha256)
    assert not bucket.arrived("a/b", size=len(content), sha256="0" * 64)
    put(bucket, "a/c", content)  # came otherwise: S3 knows no SHA-256 of it
    assert not bucket.arrived("a/c", size=len(content), sha256=sha256)
    assert bucket.direct is bucket
    assert bucket.largest == LARGEST_PUT
