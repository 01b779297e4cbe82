"""Settings: each documented, each wrong one named, no password shown."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.errors import ConfigError
from headrace.settings import Settings, load_settings, masked, origin_of_each, unit


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """No settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_is_described_and_a_number_has_its_unit(name) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert field.description[0].isalnum()
    assert field.description.endswith(".")
    assert (unit(name) is not None) == (field.annotation in (int, float))


def test_the_environment_counts_more_than_the_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "headrace.toml").write_text('pool = "file"\nlease = 7\n')
    monkeypatch.setenv("HEADRACE_POOL", "variable")
    settings = load_settings(grace=1)
    assert (settings.pool, settings.lease, settings.grace) == ("variable", 7, 1)
    assert origin_of_each() == {"pool": "HEADRACE_POOL", "lease": "headrace.toml"}


def test_the_named_file_is_the_only_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "headrace.toml").write_text("lease = 7\n")
    (tmp_path / "other.toml").write_text("grace = 9\n")
    monkeypatch.setenv("HEADRACE_CONFIG", "other.toml")
    assert (load_settings().grace, load_settings().lease) == (9, 15)


@pytest.mark.parametrize(
    ("variables", "file", "told"),
    [
        ({"LEASE": "-1"}, "", r"HEADRACE_LEASE: .*greater than 0, got '-1'"),
        ({"LEASE": "soon"}, "", r"HEADRACE_LEASE: .*valid number.*'soon'"),
        ({"LEASE": "inf"}, "", r"HEADRACE_LEASE: .*finite"),
        ({"MAX_ATTEMPTS": "2.5"}, "", r"HEADRACE_MAX_ATTEMPTS: .*integer"),
        ({"POOL": "A B"}, "", r"HEADRACE_POOL: .*pattern"),
        ({"S3_ADDRESSING": "x"}, "", r"HEADRACE_S3_ADDRESSING: .*'auto', 'path' or 'virtual'"),
        ({"S3_ENDPOINT": "minio:9000"}, "", r"HEADRACE_S3_ENDPOINT: .*https"),
        ({"S3_SSE_KMS_KEY": "k"}, "", r"HEADRACE_S3_SSE_KMS_KEY: needs HEADRACE_S3_SSE=aws:kms"),
        ({"ALLOW_CODE": "abc"}, "", r"HEADRACE_ALLOW_CODE: expected a JSON list"),
        ({"CONFIG": "nowhere.toml"}, "", r"HEADRACE_CONFIG: nowhere.toml is not a file"),
        ({"POOOL": "x"}, "", r"HEADRACE_POOOL: no such setting; did you mean HEADRACE_POOL"),
        ({"QQQQ": "x"}, "", r"HEADRACE_QQQQ: no such setting; `headrace config show`"),
        ({}, "lease = -1", r"HEADRACE_LEASE \(from headrace.toml\): .*greater than 0, got -1"),
        ({}, "leese = 1", r"leese in headrace.toml: no such setting; did you mean lease in"),
        ({}, "[s3]\nsse = 1", r"s3 in headrace.toml: no such setting"),
        ({}, "lease = =", r"headrace.toml: expected a TOML file.*line 1"),
        ({}, "\x00", r"headrace.toml: expected a TOML file"),
    ],
)
def test_a_wrong_one_is_named(tmp_path, monkeypatch, variables, file, told) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    (tmp_path / "headrace.toml").write_text(file)
    with pytest.raises(ConfigError, match=told):
        load_settings()
    shown = CliRunner().invoke(main, ["config", "show"])
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: ")
    assert shown.output.count("\n") == 1


def test_every_wrong_one_is_named_at_once(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_LEASE", "-1")
    monkeypatch.setenv("HEADRACE_GRACE", "x")
    with pytest.raises(ConfigError, match=r"LEASE.*GRACE"):
        load_settings()


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^database_ur: no such setting; did you mean database_"):
        load_settings(database_ur="sqlite:///x.db")


def test_what_is_no_setting_of_ours_is_left_alone(monkeypatch) -> None:
    ours = ("WORKER_ID", "DEVICE", "PROGRESS", "SUPERVISOR", "TEST_S3_URL")
    kubernetes = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.0.0.1:80",
        "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_SERVICE_HOST": "10.0.0.2",
        "GATEWAY_PORT": "tcp://10.0.0.2:80",
        "GATEWAY_PORT_80_TCP_PROTO": "tcp",
    }
    for name, value in dict.fromkeys(ours, "x").items() | kubernetes.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    load_settings()
    monkeypatch.setenv("HEADRACE_PORT", "80")
    with pytest.raises(ConfigError, match="HEADRACE_PORT: no such setting"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hush@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql+psycopg://u:hu@sh:hush@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://u@h/d?password=hush&x=1", "postgresql://u@h/d?password=***&x=1"),
        ("redis://:hush@h/0", "redis://:***@h/0"),
        ("sentinel://:hush@a:1;sentinel://:hush@b:2", "sentinel://:***@b:2"),
        ("amqp://u:hush@h//", "amqp://u:***@h//"),
        ("u:hush@h", "u:***@h"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:////folder/jobs.db", "sqlite:////folder/jobs.db"),
        (".headrace/store", ".headrace/store"),
    ],
)
def test_a_password_is_masked_wherever_a_url_is_shown(monkeypatch, url, shown) -> None:
    assert masked(url) == shown
    monkeypatch.setenv("HEADRACE_BROKER_URL", url)
    assert "hush" not in repr(load_settings())
    assert "hush" not in str(load_settings())
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        assert "hush" not in CliRunner().invoke(main, arguments).output


def test_a_password_in_a_wrong_url_is_masked(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_S3_ENDPOINT", "ftp://u:hush@h")
    with pytest.raises(ConfigError, match=r"u:\*\*\*@h"):
        load_settings()


def test_home_is_expanded() -> None:
    assert "~" not in str(load_settings().cache_dir)
    assert "~" not in str(load_settings(cache_dir="~/models").cache_dir)
