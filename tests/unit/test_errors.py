from __future__ import annotations

import pytest

from penstock import errors


def _all(cls: type[errors.PenstockError]) -> list[type[errors.PenstockError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _all(sub))]


def test_an_error_without_a_message_says_its_docstring() -> None:
    assert str(errors.StorageFull()) == (
        "The disk that holds the database is full; nothing was written."
    )
    assert str(errors.NotFound("no endpoint ep_1")) == "no endpoint ep_1"


def test_every_error_of_the_module_is_in_the_drawn_tree() -> None:
    drawn = errors.__doc__ or ""
    ours = [cls for cls in _all(errors.PenstockError) if cls.__module__ == errors.__name__]
    assert len(ours) > 5
    assert [
        cls.__name__ for cls in ours if f"{cls.__name__} " not in drawn.replace("\n", " ")
    ] == []


@pytest.mark.parametrize("cls", [errors.StorageFull, errors.DataDirInUse, errors.BadData])
def test_storage_errors_are_caught_together(cls: type[errors.StorageError]) -> None:
    with pytest.raises(errors.StorageError):
        raise cls
