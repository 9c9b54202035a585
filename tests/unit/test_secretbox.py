from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SecretBoxError
from penstock.secretbox import SecretBox, generate_key, key_in_file

OLD, NEW = "an old key, long enough", "a new key, long enough"


@given(st.text())
def test_what_is_sealed_opens_again(text: str) -> None:
    box = SecretBox([OLD])
    assert box.open(box.seal(text)) == text


def test_a_sealed_text_shows_nothing_and_differs_each_time() -> None:
    box = SecretBox([OLD])
    sealed = box.seal("whsec_visible")
    assert "visible" not in sealed
    assert sealed != box.seal("whsec_visible")


def test_keys_rotate_the_first_seals_and_all_open() -> None:
    sealed_before = SecretBox([OLD]).seal("x")
    rotated = SecretBox([NEW, OLD])
    assert rotated.open(sealed_before) == "x"
    assert SecretBox([NEW]).open(rotated.seal("y")) == "y"
    with pytest.raises(SecretBoxError):
        SecretBox([OLD]).open(rotated.seal("y"))


def test_an_altered_text_does_not_open() -> None:
    box = SecretBox([OLD])
    sealed = box.seal("x")
    altered = sealed[:-8] + ("A" if sealed[-8] != "A" else "B") + sealed[-7:]
    for bad in (altered, sealed[:-1], "", "not sealed", "ünïcode"):
        with pytest.raises(SecretBoxError) as caught:
            box.open(bad)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("keys", [[], ["short"], [OLD, ""], OLD])
def test_bad_keys_are_refused_without_being_shown(keys: list[str]) -> None:
    with pytest.raises(SecretBoxError) as caught:
        SecretBox(keys)
    assert "short" not in str(caught.value)


def test_generated_keys_differ_and_are_accepted() -> None:
    assert generate_key() != generate_key()
    SecretBox([generate_key()])


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret.key"
    key = key_in_file(path)
    assert key_in_file(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]


def test_those_who_start_together_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(key_in_file, [tmp_path / "secret.key"] * 32))
    assert len(set(keys)) == 1
