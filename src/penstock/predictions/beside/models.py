"""Model files as the registry knows them; the last few stay loaded."""

from __future__ import annotations

import hmac
from functools import lru_cache
from typing import Any

from penstock.errors import NotFound
from penstock.predictions import starter
from penstock.predictions.card import card as as_document
from penstock.predictions.card import html
from penstock.predictions.model import MAX_BYTES, Model, dump, load
from penstock.predictions.refusal import Unusable
from penstock.predictions.specs import ModelSpec
from penstock.predictions.template import template as as_template
from penstock.storage.objects import Objects


@lru_cache(maxsize=8)
def loaded(objects: Objects, spec: ModelSpec) -> Model:
    """The model. Raises `Unusable` unless it is byte for byte what was registered."""
    if spec.key is None:
        if not hmac.compare_digest(starter.sha256(), spec.sha256):
            raise Unusable(
                "model_version",
                "The starter model is another one in this version of Penstock. Score the file "
                "anew.",
            )
        return load(starter.data(), sha256=starter.sha256())
    try:
        with objects.open(spec.key) as file:
            data = file.read(MAX_BYTES + 1)
    except NotFound:
        raise Unusable(
            "model_damaged", "The model file is not there any more. Train the model anew."
        ) from None
    return load(data, sha256=spec.sha256)


def data(objects: Objects, spec: ModelSpec) -> bytes:
    """The model file, which is what was registered."""
    return dump(loaded(objects, spec))


def card(objects: Objects, spec: ModelSpec) -> dict[str, Any]:
    """The card as a document."""
    return as_document(loaded(objects, spec))


def page(objects: Objects, spec: ModelSpec) -> str:
    """The card as a page."""
    return html(loaded(objects, spec))


def template(objects: Objects, spec: ModelSpec) -> str:
    """A CSV with the model's columns and a row such as it has learned from."""
    return as_template(loaded(objects, spec))
