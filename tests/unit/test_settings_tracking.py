"""Carriers in the settings: credentials whole or not at all, never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.settings import Settings, load_settings
from penstock.tracking.carriers.registry import CARRIERS


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def test_without_credentials_no_carrier_has_any() -> None:
    for access in load_settings().carriers().values():
        assert (access.values, access.url, access.per_second, access.per_day) == ({}, None) + (
            None,
        ) * 2


def test_every_part_of_every_carriers_credential_is_a_setting() -> None:
    """A carrier that could be chosen but never configured would be none."""
    access = load_settings().carriers()
    for name, spec in CARRIERS.items():
        if not spec.fields:
            assert name not in access
            continue
        for field in spec.fields:
            assert f"{name}_{field.name}" in Settings.model_fields
            secret = "SecretStr" in str(Settings.model_fields[f"{name}_{field.name}"].annotation)
            assert secret == field.secret, f"{name}_{field.name}"


def test_what_is_given_arrives_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UPS_CLIENT_ID", "the id")
    monkeypatch.setenv("PENSTOCK_UPS_CLIENT_SECRET", "very secret")
    monkeypatch.setenv("PENSTOCK_UPS_URL", "https://wwwcie.ups.com/")
    monkeypatch.setenv("PENSTOCK_UPS_CALLS_PER_SECOND", "0.5")
    monkeypatch.setenv("PENSTOCK_UPS_CALLS_PER_DAY", "5000")
    monkeypatch.setenv("PENSTOCK_DHL_API_KEY", "also secret")
    settings = load_settings()
    ups = settings.carriers()["ups"]
    assert ups.values == {"client_id": "the id", "client_secret": "very secret"}
    assert (ups.url, ups.per_second, ups.per_day) == ("https://wwwcie.ups.com", 0.5, 5000)
    assert settings.carriers()["dhl"].values == {"api_key": "also secret"}
    assert "secret" not in repr(ups).replace("client_secret", "")
    assert "very secret" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("PENSTOCK_UPS_CLIENT_ID", "PENSTOCK_UPS_CLIENT_SECRET"),
        ("PENSTOCK_FEDEX_CLIENT_SECRET", "PENSTOCK_FEDEX_CLIENT_ID"),
        ("PENSTOCK_ROYAL_MAIL_CLIENT_ID", "PENSTOCK_ROYAL_MAIL_CLIENT_SECRET"),
    ],
)
def test_half_a_credential_stops_the_start(
    given: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(given, "something")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{missing} is missing" in str(caught.value)
    assert "something" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENSTOCK_UPS_CALLS_PER_DAY", "1"),
        ("PENSTOCK_UPS_CALLS_PER_DAY", "many"),
        ("PENSTOCK_DHL_CALLS_PER_SECOND", "0"),
        ("PENSTOCK_USPS_URL", "apis.usps.com"),
        ("PENSTOCK_USPS_URL", "https://somebody@apis.usps.com"),
        ("PENSTOCK_USPS_URL", "https://apis.usps.com/?a=b"),
        ("PENSTOCK_USPS_URL", "https://apis.usps.com/#part"),
        ("PENSTOCK_DHL_API_KEY", "two\nlines"),
        ("PENSTOCK_DHL_API_KEY", "ключ"),
        ("PENSTOCK_DISPATCH_INTERVAL", "0"),
        ("PENSTOCK_KEEP_SHIPMENTS", "1m"),
    ],
)
def test_a_value_that_cannot_work_stops_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_a_line_end_after_a_credential_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of secrets end with one; in a header it would make each call fail."""
    monkeypatch.setenv("PENSTOCK_DHL_API_KEY", "the key\n")
    assert load_settings().carriers()["dhl"].values == {"api_key": "the key"}


def test_a_bad_credential_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DHL_API_KEY", "very\nsecret")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_a_password_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DHL_URL", "https://me:pass@word@api.dhl.com")
    with pytest.raises(SettingsError, match=r"//…@api\.dhl\.com") as caught:
        load_settings()
    assert "pass" not in str(caught.value)


def test_every_setting_of_a_carrier_has_an_effect() -> None:
    whole = {
        f"{name}_{field.name}": f"{field.name} of {name}"
        for name, spec in CARRIERS.items()
        for field in spec.fields
    }
    values = {"url": "https://carrier.example", "calls_per_second": 0.5, "calls_per_day": 1234}
    with_credentials = load_settings(**whole).carriers()
    for name in load_settings().carriers():
        assert set(with_credentials[name].values.values()) == {
            text for setting, text in whole.items() if setting.startswith(f"{name}_")
        }
        for setting, value in values.items():
            access = load_settings(**{f"{name}_{setting}": value}).carriers()[name]
            assert value in (access.url, access.per_second, access.per_day)
