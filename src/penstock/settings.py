"""Every setting, from the first source that names it.

Sources, the first wins: values given by the program (command-line options), the environment
(``PENSTOCK_PORT``), ``.env``, ``penstock.toml`` (``port = 8321``), the default. An empty value
means the default, except for `allow_private_targets` and `services`, where empty means none.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from penstock._levels import Format, Level
from penstock.durations import describe, seconds
from penstock.errors import SettingsError
from penstock.mail import Sender, SmtpServer, parse_sender, parse_smtp_url
from penstock.secretbox import MIN_KEY_LENGTH, key_in_file

PREFIX: Final = "PENSTOCK_"
SERVICES: Final = ("jobs", "events", "tracking", "predictions")
_EMPTY_MEANS_NONE: Final = frozenset({"allow_private_targets", "services"})

Network = IPv4Network | IPv6Network


def _split(value: object) -> object:
    """The parts of a comma-separated text; a list from penstock.toml as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _seconds(value: Any) -> float:
    return seconds(value)


def _network(value: object) -> Network:
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    return ip_network(str(value))


def _service(value: object) -> object:
    if value not in SERVICES:
        raise ValueError(f"there is no service {value!r}")
    return value


def _secret_key(value: object) -> object:
    if isinstance(value, str) and len(value) < MIN_KEY_LENGTH:
        raise ValueError("too short")
    return value


def _database_url(value: object) -> object:
    if isinstance(value, str) and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("not a PostgreSQL URL")
    return value


def _smtp_url(value: object) -> object:
    if isinstance(value, str):
        parse_smtp_url(value)
    return value


def _mail_from(value: object) -> object:
    if isinstance(value, str):
        parse_sender(value)
    return value


def _mail_subject(value: object) -> object:
    if isinstance(value, str):
        rest = value.replace("{event_type}", "").replace("{event_id}", "")
        if not value.isprintable() or "{" in rest or "}" in rest:
            raise ValueError("it holds something else in braces, or no text")
    return value


def _queue_url(value: object) -> object:
    if isinstance(value, str):
        path = TypeAdapter(AnyHttpUrl).validate_python(value).path or ""
        if not path.strip("/"):
            raise ValueError("it names no queue")
        if path.endswith(".fifo"):
            raise ValueError("a FIFO queue; wake-ups need a standard one")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, and what the names of objects in it begin with."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def _objects(value: object) -> object:
    if not isinstance(value, str):
        return value
    scheme, mark, rest = value.partition("://")
    if not mark:
        return Path(value).expanduser()
    bucket, _, prefix = rest.partition("/")
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    if scheme != "s3" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise ValueError("it names no bucket")
    if not re.fullmatch(r"([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?)?", prefix) or ".." in prefix:
        raise ValueError("its prefix holds something else than letters, digits and _ . - /")
    return S3Place(bucket, prefix.rstrip("/"))


def _namespace(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"(?!AWS/)[A-Za-z0-9._/#:-]{1,255}", value):
        raise ValueError("not a name of a namespace")
    return value


def _http_url(value: object) -> object:
    if isinstance(value, str):
        TypeAdapter(AnyHttpUrl).validate_python(value)
    return value


def _base_url(url: str) -> str:
    """To which paths are appended; a user in it would collide with the carrier's own header."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("it holds a user name")
    if parts.query or parts.fragment:
        raise ValueError("it ends with a query or a fragment")
    return url.rstrip("/")


def _credential_text(value: object) -> object:
    """What goes into headers and forms; files of secrets often end with a line end."""
    if isinstance(value, str):
        value = value.strip()
        if not (value.isascii() and value.isprintable()):
            raise ValueError("it holds something else than printable ASCII")
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
HttpUrl = Annotated[str, BeforeValidator(_http_url)]
BaseUrl = Annotated[HttpUrl, AfterValidator(_base_url)]
CredentialText = Annotated[str, BeforeValidator(_credential_text)]
CredentialSecret = Annotated[SecretStr, BeforeValidator(_credential_text)]
QueueUrl = Annotated[str, BeforeValidator(_queue_url)]


def _setting(default: Any, description: str, expects: str, **limits: Any) -> Any:
    """A field that says what it means and what a value must look like."""
    return Field(default, description=description, json_schema_extra={"expects": expects}, **limits)


def _carrier_value(carrier: str, value: str) -> Any:
    """A part of the deployment's own credential with a carrier."""
    return _setting(
        None,
        f"{carrier}: the deployment's own {value}, for accounts that have stored none.",
        "the text that the carrier gave, in printable ASCII",
    )


def _carrier_url(carrier: str) -> Any:
    return _setting(None, f"{carrier}: another address of its API, such as a test system's.", _URL)


def _calls_per_second(carrier: str) -> Any:
    return _setting(
        None,
        f"{carrier}: calls a second that one credential may make. When absent, the usual.",
        "a number above 0",
        gt=0,
    )


def _calls_per_day(carrier: str) -> Any:
    return _setting(
        None,
        f"{carrier}: calls in any 24 hours that one credential may make. When absent, the usual.",
        "a whole number, 2 or more",
        ge=2,
    )


def _queue(service: str) -> Any:
    return _setting(
        None,
        f"The SQS queue for wake-ups of the service {service}; required with "
        "`PENSTOCK_WAKEUPS=sqs` where it runs. Several services may share one.",
        "a queue's URL such as https://sqs.eu-west-1.amazonaws.com/123456789012/penstock",
    )


_DURATION: Final = "a duration such as 500ms, 20s, 5m, 1h30m or 5d"
_COUNT: Final = "a whole number, 1 or more"
_SIZE: Final = "a number of bytes, or a size such as 256KiB or 5MiB"
_URL: Final = "an http:// or https:// URL"


@dataclasses.dataclass(frozen=True, slots=True)
class CarrierAccess:
    """What the settings say of one carrier; None = its usual.

    `values` are the deployment's own credential, by the names of its parts; empty = it has none.
    """

    values: Mapping[str, str] = dataclasses.field(repr=False)
    url: str | None
    per_second: float | None
    per_day: int | None


_CREDENTIALS: Final[Mapping[str, tuple[str, ...]]] = {
    "ups": ("client_id", "client_secret"),
    "usps": ("client_id", "client_secret"),
    "fedex": ("client_id", "client_secret"),
    "dhl": ("api_key",),
    "royal_mail": ("client_id", "client_secret"),
}


class Settings(BaseSettings):
    """The settings of one process; `load_settings` makes them. Durations are seconds."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        dotenv_filtering="only_existing",  # the rest of .env is not for us
        toml_file="penstock.toml",
        extra="ignore",  # unknown names are reported by load_settings
        hide_input_in_errors=True,  # a value may be a secret
        validate_default=False,
    )

    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = _setting(
        Path("penstock-data"),
        "The data folder: the SQLite database, its lock and the generated secret key.",
        "a folder's path",
    )
    host: str = _setting("127.0.0.1", "The address the API listens on.", "a host name or address")
    port: int = _setting(
        8321,
        "The port the API listens on. 0 takes any free one.",
        "a port number from 0 to 65535",
        ge=0,
        le=65535,
    )
    database_url: Annotated[SecretStr, BeforeValidator(_database_url)] | None = _setting(
        None,
        "The PostgreSQL database. Without it, an SQLite file in the data folder.",
        "a URL such as postgresql://user:password@host:5432/name",
    )
    database_threads: int = _setting(
        8,
        "How many transactions run at once on PostgreSQL: threads, and connections.",
        "a whole number from 1 to 256",
        ge=1,
        le=256,
    )
    database_prepare: bool = _setting(
        True,
        "Prepare statements on PostgreSQL. Turn it off behind a pooler such as RDS Proxy.",
        "true or false",
    )
    wakeups: Annotated[Literal["auto", "local", "postgres", "sqs"], BeforeValidator(_lower)] = (
        _setting(
            "auto",
            "How workers learn of new work: within the process, through PostgreSQL, or through "
            "Amazon SQS (with PostgreSQL as the database). `auto` follows the database.",
            "auto, local, postgres or sqs",
        )
    )
    sqs_events_queue_url: QueueUrl | None = _queue("events")
    sqs_tracking_queue_url: QueueUrl | None = _queue("tracking")
    sqs_predictions_queue_url: QueueUrl | None = _queue("predictions")
    sqs_jobs_queue_url: QueueUrl | None = _queue("jobs")
    services: Annotated[
        tuple[Annotated[str, BeforeValidator(_service)], ...],
        NoDecode,
        BeforeValidator(_split),
    ] = _setting(
        ("events", "tracking", "predictions"),
        "The services to run, beside jobs, which always run. Empty: jobs alone. Without this "
        "setting, predictions run where penstock[predictions] is installed.",
        f"a comma-separated list of: {', '.join(SERVICES)}",
    )
    secret_key: Annotated[
        tuple[Annotated[SecretStr, BeforeValidator(_secret_key)], ...],
        NoDecode,
        BeforeValidator(_split),
    ] = _setting(
        (),
        "Keys that encrypt stored secrets: the first encrypts, all decrypt. With SQLite, one is "
        "generated and kept in the data folder; with PostgreSQL it must be given, the same to "
        "every process.",
        f"one or more texts of at least {MIN_KEY_LENGTH} characters, separated by commas",
    )
    allow_private_targets: (
        Annotated[
            tuple[Annotated[Network, BeforeValidator(_network)], ...],
            NoDecode,
            BeforeValidator(_split),
        ]
        | None
    ) = _setting(
        None,
        "Private networks that deliveries may go to, also by plain http. When absent, none; "
        "but a server that listens on loopback allows 127.0.0.0/8, and so does a worker whose "
        "`PENSTOCK_HOST` is set to loopback. Empty: none at all.",
        "comma-separated networks such as 10.0.0.0/8, 127.0.0.1/32",
    )
    delivery_slots: int = _setting(256, "Deliveries under way at once in a process.", _COUNT, ge=1)
    delivery_schedule: Annotated[tuple[Duration, ...], NoDecode, BeforeValidator(_split)] = (
        _setting(
            (1.0, 2.0, 4.0, 8.0, 16.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0),
            "The waits between attempts at a delivery, each give or take 20 %. "
            "After the last attempt it is dead.",
            "comma-separated durations such as 1s, 30s, 5m, 2h",
            min_length=1,
        )
    )
    delivery_timeout: Duration = _setting(
        10.0, "How long an endpoint may take to answer.", _DURATION + ", at most 30s", gt=0, le=30
    )
    delivery_expiry: Duration = _setting(
        432000.0, "How long after acceptance a delivery is given up.", _DURATION, gt=0
    )
    smtp_url: Annotated[SecretStr, BeforeValidator(_smtp_url)] | None = _setting(
        None,
        "The mail server that e-mails go through. smtp:// must upgrade to TLS, unless "
        "?starttls=auto or ?starttls=never is added; smtps:// is TLS from the start.",
        "a URL such as smtp://user:password@mail.example.com:587",
    )
    mail_from: Annotated[str, BeforeValidator(_mail_from)] | None = _setting(
        None,
        "Whom e-mails come from; required for sending any.",
        "an address such as penstock@example.com or Penstock <penstock@example.com>",
    )
    mail_by: Annotated[Literal["smtp", "ses", "outbox"], BeforeValidator(_lower)] | None = _setting(
        None,
        "How e-mails leave: through the mail server, Amazon SES, or not at all: then they are "
        "kept in the outbox. When absent, smtp if there is a mail server, else outbox.",
        "smtp, ses or outbox",
    )
    mail_subject: Annotated[str, BeforeValidator(_mail_subject)] = _setting(
        "{event_type}",
        "The subject of e-mails.",
        "one line of text; {event_type} and {event_id} are replaced",
    )
    sms_by: Annotated[Literal["sns", "outbox"], BeforeValidator(_lower)] = _setting(
        "outbox",
        "How text messages leave: through Amazon SNS, or not at all: then they are kept in the "
        "outbox.",
        "sns or outbox",
    )
    aws_region: str | None = _setting(
        None,
        "The region of AWS where SES, SNS and queues without one of their own are. When absent, "
        "the one that AWS's tools would use.",
        "the name of a region such as eu-west-1",
    )
    aws_endpoint_url: HttpUrl | None = _setting(
        None, "A server that stands in for AWS, for tests and development.", _URL
    )
    keep_events: Duration = _setting(
        2592000.0,
        "How long events are kept once they are delivered, replayed or failed.",
        _DURATION + ", at least 1h",
        ge=3600,
    )
    dispatch_interval: Duration = _setting(
        3600.0,
        "How often carriers' lanes in which shipments are due are woken all together; each "
        "shipment is checked when it is due, whatever this is.",
        _DURATION + ", at least 1s",
        ge=1,
    )
    keep_shipments: Duration = _setting(
        7776000.0,
        "How long shipments are kept once they are followed no more.",
        _DURATION + ", at least 1h",
        ge=3600,
    )
    ups_client_id: CredentialText | None = _carrier_value("UPS", "client id")
    ups_client_secret: CredentialSecret | None = _carrier_value("UPS", "client secret")
    ups_url: BaseUrl | None = _carrier_url("UPS")
    ups_calls_per_second: float | None = _calls_per_second("UPS")
    ups_calls_per_day: int | None = _calls_per_day("UPS")
    usps_client_id: CredentialText | None = _carrier_value("USPS", "consumer key")
    usps_client_secret: CredentialSecret | None = _carrier_value("USPS", "consumer secret")
    usps_url: BaseUrl | None = _carrier_url("USPS")
    usps_calls_per_second: float | None = _calls_per_second("USPS")
    usps_calls_per_day: int | None = _calls_per_day("USPS")
    fedex_client_id: CredentialText | None = _carrier_value("FedEx", "API key")
    fedex_client_secret: CredentialSecret | None = _carrier_value("FedEx", "secret key")
    fedex_url: BaseUrl | None = _carrier_url("FedEx")
    fedex_calls_per_second: float | None = _calls_per_second("FedEx")
    fedex_calls_per_day: int | None = _calls_per_day("FedEx")
    dhl_api_key: CredentialSecret | None = _carrier_value("DHL", "API key")
    dhl_url: BaseUrl | None = _carrier_url("DHL")
    dhl_calls_per_second: float | None = _calls_per_second("DHL")
    dhl_calls_per_day: int | None = _calls_per_day("DHL")
    royal_mail_client_id: CredentialText | None = _carrier_value("Royal Mail", "client id")
    royal_mail_client_secret: CredentialSecret | None = _carrier_value(
        "Royal Mail", "client secret"
    )
    royal_mail_url: BaseUrl | None = _carrier_url("Royal Mail")
    royal_mail_calls_per_second: float | None = _calls_per_second("Royal Mail")
    royal_mail_calls_per_day: int | None = _calls_per_day("Royal Mail")
    objects: Annotated[Path | S3Place, BeforeValidator(_objects)] | None = _setting(
        None,
        "Where uploads, results and models are kept: a folder, or a bucket of Amazon S3. Every "
        "process needs the same. When absent, the folder `objects` in the data folder.",
        "a folder's path, or a bucket such as s3://bucket/prefix",
    )
    s3_endpoint_url: HttpUrl | None = _setting(
        None,
        "A server that speaks as Amazon S3 does, such as MinIO. When absent, "
        "`PENSTOCK_AWS_ENDPOINT_URL`, else S3 itself.",
        _URL,
    )
    prediction_processes: int | None = _setting(
        None,
        "Processes that score files at once; each takes some 150 MB while there is work. When "
        "absent, one less than there are processors.",
        _COUNT,
        ge=1,
    )
    max_upload: ByteSize = _setting(
        ByteSize(1024 * 1024 * 1024), "The largest file to score or to learn from.", _SIZE, ge=1024
    )
    max_rows: int | None = _setting(
        None, "The most rows of a file that is scored. When absent, any number.", _COUNT, ge=1
    )
    keep_predictions: Duration = _setting(
        2592000.0,
        "How long predictions are kept once they have ended, and uploads once they came in.",
        _DURATION + ", at least 1h",
        ge=3600,
    )
    job_slots: int = _setting(16, "Jobs running at once in a process.", _COUNT, ge=1)
    lease: Duration = _setting(
        60.0,
        "How long a worker holds what it took without renewing it; renewed every third.",
        _DURATION + ", at least 100ms",
        ge=0.1,
    )
    sweep_interval: Duration = _setting(
        15.0,
        "How often lost leases are looked for.",
        _DURATION + ", at least 100ms",
        ge=0.1,
    )
    grace: Duration = _setting(
        20.0,
        "How long running work may finish when the process is asked to stop.",
        _DURATION,
    )
    max_body: ByteSize = _setting(
        ByteSize(262144), "The largest request body, and the largest event.", _SIZE, ge=1024
    )
    max_batch_body: ByteSize = _setting(
        ByteSize(5 * 1024 * 1024), "The largest body of a batch of events.", _SIZE, ge=1024
    )
    oidc_issuer: HttpUrl | None = _setting(
        None, "Accept access tokens (JWT) of this OpenID Connect issuer.", _URL
    )
    oidc_audience: str | None = _setting(
        None, "The audience such a token must name; required with an issuer.", "a text"
    )
    oidc_jwks_url: HttpUrl | None = _setting(
        None, "Where the issuer's keys are. When absent, the issuer's discovery says.", _URL
    )
    oidc_account_claim: str = _setting(
        "sub", "The claim that names the account a token acts for.", "the name of a claim"
    )
    oidc_audience_claim: str = _setting(
        "aud",
        "The claim that names the audience: `client_id` for Cognito's access tokens, `azp` for "
        "Clerk's.",
        "the name of a claim",
    )
    rate_limit: float | None = _setting(
        None,
        "Requests a second that each account may make, in bursts of twice as many. "
        "When absent, any number.",
        "a number above 0",
        gt=0,
    )
    metrics_public: bool = _setting(True, "Answer /metrics without a credential.", "true or false")
    metrics: Annotated[Literal["prometheus", "emf"], BeforeValidator(_lower)] = _setting(
        "prometheus",
        "Where figures go: to `/metrics` alone, or also to Amazon CloudWatch, as lines of the log "
        "in its embedded metric format.",
        "prometheus or emf",
    )
    metrics_namespace: Annotated[str, BeforeValidator(_namespace)] = _setting(
        "Penstock",
        "The namespace of the metrics in CloudWatch; each environment in an account wants its own.",
        "at most 255 letters, digits and . - _ / # :",
    )
    log_level: Annotated[Level, BeforeValidator(_lower)] = _setting(
        "info", "The least level that is logged.", "debug, info, warning or error"
    )
    log_format: Annotated[Format, BeforeValidator(_lower)] | None = _setting(
        None,
        "How log lines look. When absent, console on a terminal and json elsewhere.",
        "json or console",
    )
    url: BaseUrl | None = _setting(
        None, "For clients: the Penstock server to talk to. When absent, the local one.", _URL
    )
    key: SecretStr | None = _setting(None, "For clients: the API key to use.", "an API key")
    profile: str | None = _setting(
        None,
        "For commands: the server to ask, if no other is named. `penstock profiles add` stores it.",
        "the name of a profile",
    )

    @property
    def sqlite_path(self) -> Path:
        """Where the SQLite database is, if that is what is used."""
        return self.data_dir / "penstock.db"

    @property
    def sqs_queues(self) -> dict[str, str]:
        """The queues' URLs, by service, as far as they are given."""
        given = {
            "events": self.sqs_events_queue_url,
            "tracking": self.sqs_tracking_queue_url,
            "predictions": self.sqs_predictions_queue_url,
            "jobs": self.sqs_jobs_queue_url,
        }
        return {service: url for service, url in given.items() if url is not None}

    @property
    def smtp_server(self) -> SmtpServer | None:
        """The mail server, taken apart."""
        return None if self.smtp_url is None else parse_smtp_url(self.smtp_url.get_secret_value())

    @property
    def mail_sender(self) -> Sender | None:
        """Whom e-mails come from, taken apart."""
        return None if self.mail_from is None else parse_sender(self.mail_from)

    def carriers(self) -> dict[str, CarrierAccess]:
        """What is said of each carrier."""
        return {
            carrier: CarrierAccess(
                self._credential(carrier),
                getattr(self, f"{carrier}_url"),
                getattr(self, f"{carrier}_calls_per_second"),
                getattr(self, f"{carrier}_calls_per_day"),
            )
            for carrier in _CREDENTIALS
        }

    def _credential(self, carrier: str) -> dict[str, str]:
        given = {part: getattr(self, f"{carrier}_{part}") for part in _CREDENTIALS[carrier]}
        return {
            part: value.get_secret_value() if isinstance(value, SecretStr) else value
            for part, value in given.items()
            if value is not None
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, the first wins."""
        return (
            init_settings,
            env_settings,
            dotenv_settings,
            TomlConfigSettingsSource(settings_cls),
        )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in values.items()
            if name in _EMPTY_MEANS_NONE or not (isinstance(value, str) and not value.strip())
        }

    @model_validator(mode="after")
    def _agree(self) -> Self:
        faults = []
        if self.wakeups in ("postgres", "sqs") and self.database_url is None:
            faults.append(f"{PREFIX}WAKEUPS is {self.wakeups}, which needs {PREFIX}DATABASE_URL")
        if self.oidc_issuer and not self.oidc_audience:
            faults.append(
                f"{PREFIX}OIDC_AUDIENCE is missing: without it, tokens that "
                f"{PREFIX}OIDC_ISSUER made for others would be accepted"
            )
        if self.mail_by == "smtp" and self.smtp_url is None:
            faults.append(f"{PREFIX}MAIL_BY is smtp, which needs {PREFIX}SMTP_URL")
        mail_leaves = self.mail_by != "outbox" and (self.smtp_url or self.mail_by == "ses")
        if mail_leaves and self.mail_from is None:
            faults.append(f"{PREFIX}MAIL_FROM is missing: e-mails must come from someone")
        for carrier, parts in _CREDENTIALS.items():
            given = self._credential(carrier)
            faults += [
                f"{_variable(f'{carrier}_{part}')} is missing: "
                f"{_variable(f'{carrier}_{next(iter(given))}')} alone gives no access"
                for part in parts
                if given and part not in given
            ]
        if faults:
            raise ValueError("\n".join(faults))
        return self


def load_settings(**overrides: Any) -> Settings:
    """The settings from all sources; an override of None counts as not given.

    Raises SettingsError with one line for each fault. Names that are no setting's are logged.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    faults = [f"there is no setting {name!r}" for name in overrides.keys() - _names()]
    if faults:
        raise SettingsError("\n".join(sorted(faults)))
    settings: Settings | None = None
    try:
        settings = Settings(**given)
        sources = _sources(given)
    except ValidationError as exc:
        faults = [_fault(error, _sources(given)) for error in exc.errors()]
    except (OSError, ValueError) as exc:
        faults = [f".env or penstock.toml cannot be read: {exc}"]
    # Raised outside of the handlers: a chained error would carry the values, secrets too.
    if settings is None:
        raise SettingsError("\n".join(dict.fromkeys(faults)))
    for source, values in sources.items():
        _warn_of_unknown(source, values)
    return settings


def _names() -> frozenset[str]:
    return frozenset(Settings.model_fields)


def _sources(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What each source says, by setting, the first wins. Unknown names are in there as well."""
    env = EnvSettingsSource(Settings)
    dotenv = DotEnvSettingsSource(Settings)
    return {
        "command line": given,
        "environment": _without_prefix(os.environ) | env(),
        ".env": _without_prefix(dotenv.env_vars) | dotenv(),
        "penstock.toml": TomlConfigSettingsSource(Settings)(),
    }


def _without_prefix(variables: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        name.lower().removeprefix(PREFIX.lower()): value
        for name, value in variables.items()
        if name.upper().startswith(PREFIX) and not name.upper().startswith(PREFIX + "TEST_")
    }


def _fault(error: Any, sources: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: the variable, where it is set, its value, what is expected."""
    if not error["loc"]:
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    field = Settings.model_fields[name]
    source, value = next(
        ((source, values[name]) for source, values in sources.items() if name in values),
        ("default", field.default),
    )
    line = f"{_variable(name)} ({source}) "
    if _is_secret(field):
        return f"{line}has a bad value (not shown); expected {_expects(field)}"
    # Who is named in a URL may have a password beside it.
    whole = re.sub(r"//[^/]*@", "//…@", repr(value))
    shown = whole if len(whole) <= 100 else whole[:100] + "…"
    # What pydantic says of its own rules repeats what is expected; our own say what is wrong.
    detail = f" ({error['ctx']['error']})" if error["type"] == "value_error" else ""
    return f"{line}is {shown}; expected {_expects(field)}{detail}"


def _expects(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["expects"]) if isinstance(extra, dict) else ""


def _is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation) + str(field.metadata)


def _warn_of_unknown(source: str, values: Mapping[str, Any]) -> None:
    unknown = sorted(values.keys() - _names())
    if not unknown:
        return
    # Loaded by those only who log: a command that asks a server does not wait for it.
    from penstock.telemetry import SETTING_UNKNOWN, log

    shown: Callable[[str], str] = str if source == "penstock.toml" else _variable
    for name in unknown:
        fields = {"name": shown(name), "source": source}
        if close := difflib.get_close_matches(name, _names(), n=1):
            fields["did_you_mean"] = shown(close[0])
        log(SETTING_UNKNOWN, None, **fields)


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def load_secret_keys(settings: Settings) -> list[str]:
    """The keys for `SecretBox`: those configured, else the one kept in the data folder.

    With PostgreSQL none is generated: processes on other machines would make their own, and
    could not open one another's secrets.
    """
    if settings.secret_key:
        return [key.get_secret_value() for key in settings.secret_key]
    path = settings.data_dir / "secret.key"
    if settings.database_url is not None and not path.exists():
        raise SettingsError(
            f"{PREFIX}SECRET_KEY is missing: with {PREFIX}DATABASE_URL every process needs the "
            f"same one; expected {_expects(Settings.model_fields['secret_key'])}, such as the "
            "output of: openssl rand -hex 32"
        )
    try:
        key = key_in_file(path)
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        key = ""
    if len(key) < MIN_KEY_LENGTH:
        raise SettingsError(
            f"{path} holds no key, and what was sealed with the one it had cannot be opened"
            f" without: restore it, or set {PREFIX}SECRET_KEY"
        )
    return [key]


def settings_table() -> str:
    """The settings as a Markdown table, for the reference."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = f"{field.description} Expected: {_expects(field)}."
        lines.append(f"| `{_variable(name)}` | {_shown_default(name, field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _shown_default(name: str, field: FieldInfo) -> str:
    default = field.default
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{describe(default)}`"
    if isinstance(default, Sequence) and not isinstance(default, str):
        parts = [describe(part) if isinstance(part, float) else str(part) for part in default]
        return f"`{','.join(parts)}`"
    return f"`{default}`"
