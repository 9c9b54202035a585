from __future__ import annotations

import stat
from pathlib import Path

import pytest

from penstock.cli import stored
from penstock.cli.output import columns, one_line
from penstock.cli.remote import Target, chosen
from penstock.client import Unreachable
from penstock.errors import SettingsError
from support.command import cli

KEY = "psk_" + "k" * 40


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configurations, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # no .env, no penstock-data
    return tmp_path


def test_profiles_are_added_listed_and_removed_and_their_keys_never_shown(config: Path) -> None:
    empty = cli("profiles", "list")
    added = cli("profiles", "add", "eu", "--url", "https://eu.example.com/", "--key", KEY)
    typed = cli("profiles", "add", "us", "--url", "https://us.example.com", stdin=KEY + "\n")
    read = cli(
        *("profiles", "add", "us", "--url", "https://us.example.com", "--key", "-", "--json"),
        stdin=KEY + "\n",
    )
    listed = cli("profiles", "list", "--json")
    plain = cli("profiles", "list")
    removed = cli("profiles", "remove", "eu", "--json")

    file = config / "penstock" / "profiles.toml"
    assert "penstock profiles add" in empty.stdout
    assert (added.code, read.code, removed.code) == (0, 0, 0)
    assert (typed.code, "--key -" in typed.stderr) == (2, True)  # not asked for off a terminal
    assert read.document == {"name": "us", "url": "https://us.example.com", "file": str(file)}
    assert listed.document == {
        "items": [
            {"name": "eu", "url": "https://eu.example.com"},
            {"name": "us", "url": "https://us.example.com"},
        ]
    }
    assert KEY not in added.stdout + listed.stdout + plain.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(stored.read()) == ["us"]
    assert cli("profiles", "remove", "eu").code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a b", "--url", "https://x.example", "--key", KEY), "letters, digits"),
        (("x", "--url", "x.example", "--key", KEY), "https://penstock.example.com"),
        (("x", "--url", "https://x.example", "--key", "two words"), "printable ASCII"),
        (("x", "--url", "https://x.example", "--key", ""), "API key is missing"),
    ],
)
def test_what_no_profile_can_be_is_refused(
    config: Path, arguments: tuple[str, ...], says: str
) -> None:
    ran = cli("profiles", "add", *arguments)

    assert (ran.code, ran.stdout) == (2, "")
    assert says in ran.stderr
    assert not (config / "penstock").exists()


def test_a_file_of_keys_that_others_may_read_is_not_used(config: Path) -> None:
    stored.write({"eu": stored.Profile("https://eu.example.com", KEY)})
    stored.path().chmod(0o640)

    ran = cli("events", "list", "--profile", "eu")

    assert (ran.code, ran.stdout) == (2, "")
    assert f"chmod 600 {stored.path()}" in ran.stderr


@pytest.mark.parametrize("text", ["not toml at all = =", "[eu]\nurl = 'https://x'", "eu = 3"])
def test_a_damaged_file_is_said_to_be_so_without_its_contents(config: Path, text: str) -> None:
    stored.write({})
    stored.path().write_text(text)

    with pytest.raises(SettingsError, match="damaged") as caught:
        stored.get("eu")

    assert caught.value.__context__ is None


def test_a_name_with_strange_characters_in_its_url_is_kept(config: Path) -> None:
    odd = stored.Profile("https://x.example/a\"b'c\\d", "k\"'\\")
    stored.write({"odd": odd})

    assert stored.get("odd") == odd


def _chosen(
    data: Path | None = None,
    url: str | None = None,
    key: str | None = None,
    profile: str | None = None,
) -> tuple[str | None, str | None]:
    target = chosen(data, url, key, profile)
    return target.url, target.key


def test_which_server_is_asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.write(
        {name: stored.Profile(f"https://{name}.example", f"key-{name}") for name in ("eu", "us")}
    )
    here = config / "data"

    assert _chosen() == (None, None)
    assert _chosen(key="k") == (None, "k")
    assert _chosen(url="https://x.example", key="k") == ("https://x.example", "k")
    assert _chosen(profile="eu") == ("https://eu.example", "key-eu")
    assert _chosen(profile="eu", key="k") == ("https://eu.example", "k")
    monkeypatch.setenv("PENSTOCK_PROFILE", "us")
    assert _chosen() == ("https://us.example", "key-us")
    assert _chosen(data=here) == (None, None)
    monkeypatch.setenv("PENSTOCK_URL", "https://env.example")
    monkeypatch.setenv("PENSTOCK_KEY", "key-env")
    assert _chosen() == ("https://env.example", "key-env")
    assert _chosen(profile="eu") == ("https://eu.example", "key-eu")
    assert _chosen(data=here) == (None, None)
    assert _chosen(url="https://x.example") == ("https://x.example", "key-env")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--url", "https://x.example", "--profile", "eu"), "give one of them"),
        (("--profile", "nowhere"), "there is no profile 'nowhere'"),
        (("--url", "x.example", "--key", "k"), "PENSTOCK_URL (command line)"),
        (("--url", "https://x.example"), "needs an API key"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused(
    config: Path, options: tuple[str, ...], says: str
) -> None:
    ran = cli("dead", "list", *options)

    assert (ran.code, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert says in line


def test_the_key_is_in_no_representation(config: Path) -> None:
    stored.write({"eu": stored.Profile("https://eu.example", KEY)})

    target = chosen(None, None, None, "eu")

    assert isinstance(target, Target)
    assert KEY not in repr(target) + repr(stored.get("eu"))
    with pytest.raises(Unreachable):
        chosen(config / "data", None, None, None).server()


def test_what_is_printed_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    columns([("a\nb", 1, None), ("c\x1b[31m", 22, "x")])

    assert capsys.readouterr().out == "a b     1\nc [31m  22  x\n"
    assert one_line("a\r\nb\x00") == "a  b "
