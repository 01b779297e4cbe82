"""All settings, typed, in one place.

Taken from ``HEADRACE_*`` environment variables, then from a TOML file: the one named by
``HEADRACE_CONFIG``, else ``./headrace.toml``, else ``./.headrace/headrace.toml`` (which
``headrace up`` writes while it runs). A name that is no setting is an error in both.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from headrace.errors import ConfigError

PREFIX = "HEADRACE_"

_FILES = (Path("headrace.toml"), Path(".headrace/headrace.toml"))
# What one process of ours tells another, and what only tests read.
_NOT_SETTINGS = re.compile(r"CONFIG|WORKER_ID|DEVICE|PROGRESS|SUPERVISOR|TEST_.*")
# Kubernetes tells every pod of a Service that is named headrace, or headrace-gateway.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_PORT_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")
_PASSWORD = re.compile(r"^((?:[\w+.-]+://)?[^:/?#@]*):(?!//).*@", re.DOTALL)
_SECRET_ARGUMENT = re.compile(r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&#]*", re.I)


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts."""

    name: str


Seconds = Annotated[float, Unit("seconds"), Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Unit("bytes"), Field(ge=0)]


class Settings(BaseSettings):
    """What a deployment chooses; `load_settings` reads it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    database_url: str = Field(
        "sqlite:///.headrace/jobs.db",
        description="The job table: sqlite:///file or postgresql://user:password@host/database.",
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0", description="The broker: redis://, rediss:// or amqp://."
    )
    broker_timeout: Seconds = Field(
        2.0, description="How long a submission waits for the broker before it goes on."
    )
    broker_pause: Seconds = Field(
        5.0, description="How long submissions leave a broker alone that did not answer."
    )

    store_url: str = Field(
        ".headrace/store", description="The object store: a folder, or s3://bucket/prefix."
    )
    s3_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+",
        description="URL of an S3-compatible server; without it, AWS's own for the region.",
    )
    s3_region: str | None = Field(
        None, description="Region of the bucket; without it, what AWS's own settings say."
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Where the bucket stands: in the URL's path or in its host name."
    )
    s3_sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None, description="Server-side encryption to ask for; without it, the bucket's default."
    )
    s3_sse_kms_key: str | None = Field(
        None, description="Id or ARN of the KMS key; needs s3_sse aws:kms or aws:kms:dsse."
    )
    s3_connect_timeout: Seconds = Field(5.0, description="How long to wait for a connection to S3.")
    s3_read_timeout: Seconds = Field(30.0, description="How long to wait for more of an answer.")
    s3_retries: Annotated[int, Unit("tries"), Field(ge=0)] = Field(
        3, description="How often one request to S3 is repeated after a passing fault."
    )
    io_threads: Annotated[int, Unit("threads"), Field(ge=1)] = Field(
        16, description="Transfers to and from S3 at once in one process: connections, parts."
    )

    inline_input: Bytes = Field(
        64 * 1024, description="A larger input goes to the object store, not to the table."
    )
    max_input: Annotated[int, Unit("bytes"), Field(gt=0)] = Field(
        64 * 1024**2, description="A record larger than this, encoded, is refused at submit."
    )
    inline_result: Bytes = Field(
        4 * 1024, description="A result up to this size is also kept in the job table."
    )
    max_attempts: Annotated[int, Unit("runs"), Field(ge=1)] = Field(
        3, description="Runs after which a job that asks for another one is failed."
    )
    quarantine_after: Annotated[int, Unit("deaths"), Field(ge=1, le=1000)] = Field(
        3, description="Workers that may die with a job alone on the device; then it is failed."
    )

    retention: Annotated[float, Unit("seconds"), Field(ge=0, allow_inf_nan=False)] = Field(
        30 * 24 * 3600.0,
        description="Jobs that ended this long ago go, with their results; 0 keeps them for ever.",
    )

    scheduled_runs: Annotated[int, Unit("runs"), Field(ge=1)] = Field(
        4, description="Runs of schedules at a time, over all schedules."
    )
    smtp_url: str | None = Field(
        None,
        pattern=r"^smtps?://",
        description="Mail server: smtp://user:password@host:587, or smtps:// for TLS from the"
        " start; without it, nobody is told of what fails.",
    )
    mail_from: str = Field(
        "headrace@localhost", description="The address that its e-mail comes from."
    )
    notify: tuple[str, ...] = Field(
        (), description="Who is told of schedules that name nobody: e-mail addresses."
    )

    pool: str = Field("default", pattern=r"^[a-z0-9-]+$", description="Which jobs a worker takes.")
    lease: Seconds = Field(15.0, description="A worker not heard of for this long is dead.")
    poll: Seconds = Field(2.0, description="How often an idle worker looks for jobs.")
    grace: Seconds = Field(30.0, description="Time to finish the running batch at SIGTERM.")
    cache_dir: Path = Field(
        Path("~/.cache/headrace"), description="Folder where model packages are unpacked."
    )
    worker_memory: Bytes = Field(
        0,
        description="A worker process that grows past it is replaced, from 90 % of it on between"
        " two batches; 0 sets no bound.",
    )
    shard_window: Annotated[int, Unit("records"), Field(ge=1)] = Field(
        4096,
        description="Records of a dataset that are read together; of more, batches are formed "
        "that are nearer in length.",
    )
    model_memory: Annotated[int, Unit("bytes"), Field(gt=0)] = Field(
        4 * 1024**3, description="Weights kept loaded in one worker, least recent out first."
    )
    allow_code: frozenset[str] = Field(
        frozenset(), description="sha256 digests of the package files allowed to run code."
    )

    @field_validator("cache_dir")
    @classmethod
    def _of_home(cls, folder: Path) -> Path:
        return folder.expanduser()

    @model_validator(mode="after")
    def _kms(self) -> Self:
        if self.s3_sse_kms_key is not None and not (self.s3_sse or "").startswith("aws:kms"):
            raise ValueError("HEADRACE_S3_SSE_KMS_KEY: needs HEADRACE_S3_SSE=aws:kms (or :dsse)")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file()[1])

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value)) for name, value in self]


def load_settings(**overrides: object) -> Settings:
    """The settings of this process. Raises ConfigError naming each wrong one."""
    path, in_file = _read_file()
    unknown = [
        *_unknown(overrides, str),
        *_unknown(in_file, lambda name: f"{name} in {path}"),
        *_unknown(_environment(), _variable),
    ]
    if unknown:
        raise ConfigError("; ".join(unknown))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except SettingsError as error:
        # Not JSON, where a list is wanted; its message names the field in quotes.
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise ConfigError(
            f'{_variable(name)}: expected a JSON list, such as \'["first", "second"]\''
        ) from None
    except ValidationError as error:
        origins = origin_of_each(overrides)
        raise ConfigError("; ".join(_problem(e, origins) for e in error.errors())) from None


def origin_of_each(overrides: Mapping[str, object] | None = None) -> dict[str, str]:
    """Where each setting that is not at its default comes from: a variable, file or argument."""
    path, in_file = _read_file()
    return {
        **{name: str(path) for name in in_file},
        **{name: _variable(name) for name in _environment()},
        **dict.fromkeys(overrides or (), "argument"),
    }


def unit(name: str) -> str | None:
    """What the number of this setting counts; None where it is no number."""
    metadata = Settings.model_fields[name].metadata
    return next((entry.name for entry in metadata if isinstance(entry, Unit)), None)


def masked(value: object) -> object:
    """`value` as it may be shown: a URL without its password."""
    if not isinstance(value, str):
        return value
    return _SECRET_ARGUMENT.sub(r"\1***", _PASSWORD.sub(r"\1:***@", value))


def _read_file() -> tuple[Path | None, dict[str, Any]]:
    """The settings file and what is in it. Raises ConfigError."""
    named = os.environ.get("HEADRACE_CONFIG")
    if named and not Path(named).is_file():
        raise ConfigError(f"HEADRACE_CONFIG: {named} is not a file")
    path = Path(named) if named else next((path for path in _FILES if path.is_file()), None)
    if path is None:
        return None, {}
    try:
        return path, tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a TOML file of settings ({error})") from None


def _environment() -> dict[str, str]:
    """The variables meant for us, by setting name, known or not."""
    found = {
        name.upper().removeprefix(PREFIX): value
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX)
    }
    return {
        name.lower(): value
        for name, value in found.items()
        if not (
            _NOT_SETTINGS.fullmatch(name)
            or _OF_KUBERNETES.fullmatch(name)
            or (name.endswith("PORT") and _PORT_OF_KUBERNETES.match(value))
        )
    }


def _unknown(names: Iterable[str], spell: Callable[[str], str]) -> list[str]:
    known = list(Settings.model_fields)
    complaints = []
    for name in names:
        if name not in known:
            near = " or ".join(map(spell, difflib.get_close_matches(name, known)))
            hint = f"did you mean {near}?" if near else "`headrace config show` lists them all"
            complaints.append(f"{spell(name)}: no such setting; {hint}")
    return complaints


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _problem(error: Any, origins: Mapping[str, str]) -> str:
    """One complaint: which setting, from where, what was expected, and what it got."""
    expected = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(expected)
    name = str(error["loc"][0])
    variable = _variable(name)
    origin = origins.get(name, variable)
    where = variable if origin == variable else f"{variable} (from {origin})"
    return f"{where}: {expected}, got {masked(error['input'])!r}"
