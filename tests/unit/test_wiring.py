"""What the services are given by the settings, in this process and in its children."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.settings import load_settings
from penstock.storage.objects import Folder
from penstock.storage.objects_s3 import Bucket
from penstock.wiring import (
    for_children,
    listening_nowhere,
    make_objects,
    private_targets,
    running,
)


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", ["127.0.0.0/8", "::1/128"]),
        ("::1", ["127.0.0.0/8", "::1/128"]),
        ("localhost", ["127.0.0.0/8", "::1/128"]),
        ("0.0.0.0", []),
        ("192.168.1.2", []),
        ("penstock.example.com", []),
    ],
)
def test_loopback_may_be_pushed_to_by_a_server_on_loopback(host: str, allowed: list[str]) -> None:
    found = private_targets(load_settings(host=host))
    assert [str(network) for network in found] == allowed


def test_what_the_setting_says_counts_wherever_the_server_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_ALLOW_PRIVATE_TARGETS", "")
    assert private_targets(load_settings(host="127.0.0.1")) == ()
    monkeypatch.setenv("PENSTOCK_ALLOW_PRIVATE_TARGETS", "10.0.0.0/8")
    assert [str(net) for net in private_targets(load_settings(host="127.0.0.1"))] == ["10.0.0.0/8"]


def test_a_service_runs_if_it_is_named_or_can(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = load_settings()
    assert running(everything) == ("events", "tracking", "predictions")
    monkeypatch.setenv("PENSTOCK_SERVICES", "events")
    assert running(load_settings()) == ("events",)
    monkeypatch.setattr("penstock.predictions.extra.NEEDED", ("numpy", "no_such_package"))
    assert running(everything) == ("events", "tracking")
    monkeypatch.setenv("PENSTOCK_SERVICES", "events,predictions")
    with pytest.raises(SettingsError, match=r"no_such_package is not installed: pip install"):
        running(load_settings())


@pytest.mark.parametrize("database_url", [None, "postgresql://localhost/penstock"])
def test_a_child_may_push_where_its_parent_may(
    database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url is not None:
        monkeypatch.setenv("PENSTOCK_DATABASE_URL", database_url)
    # As the command line gives them: neither is in the environment that a child inherits.
    parent = load_settings(host="0.0.0.0", data_dir=Path("folder"))
    assert private_targets(parent) == ()

    for name, value in for_children(parent).items():
        monkeypatch.setenv(name, value)
    child = load_settings()

    assert private_targets(child) == ()
    assert child.data_dir == tmp_path / "folder"


def test_a_process_that_listens_nowhere_may_push_to_loopback_only_if_it_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert private_targets(listening_nowhere(load_settings())) == ()
    monkeypatch.setenv("PENSTOCK_HOST", "127.0.0.1")
    told = listening_nowhere(load_settings())
    assert [str(network) for network in private_targets(told)] == ["127.0.0.0/8", "::1/128"]
    monkeypatch.setenv("PENSTOCK_HOST", "")
    monkeypatch.setenv("PENSTOCK_ALLOW_PRIVATE_TARGETS", "10.0.0.0/8")
    named = listening_nowhere(load_settings())
    assert [str(network) for network in private_targets(named)] == ["10.0.0.0/8"]


def test_objects_are_where_the_setting_says(tmp_path: Path) -> None:
    assert make_objects(load_settings()) == Folder(tmp_path / "penstock-data" / "objects")
    assert make_objects(load_settings(objects="files")) == Folder(tmp_path / "files")
    told = load_settings(objects="s3://shop.files/a/b/", aws_region="eu-west-1")
    assert make_objects(told) == Bucket("shop.files", "a/b", "eu-west-1", None)
    both = {"aws_endpoint_url": "http://127.0.0.1:1", "s3_endpoint_url": "http://127.0.0.1:2"}
    assert make_objects(load_settings(objects="s3://shop", **both)) == Bucket(
        "shop", "", None, "http://127.0.0.1:2"
    )


@pytest.mark.parametrize(
    "place", ["s3://", "s3:///x", "s3://Shop/x", "s3://shop/../x", "gs://shop"]
)
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_OBJECTS"):
        load_settings(objects=place)
