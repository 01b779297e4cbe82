"""docker-compose.yml and deploy/ without Docker: each is linted, and every command and health
check of ours is run for real, in a clean virtual environment made as the Dockerfile says.

The images of PostgreSQL, RabbitMQ, Redis and the S3 server are not run here: private servers
stand in, with the commands and health checks that are given to the first three. Those of the S3
server are not run.
"""

import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from headrace.errors import NotInstalled
from headrace.stack.process import Process
from headrace.stack.servers import find_redis, free_port
from tests.acceptance.image import DOCKERFILE, Image, build, stages
from tests.acceptance.markdown import ROOT
from tests.rabbitmq import Node
from tests.service.rig import eventually
from tests.services import unavailable

FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if "headrace" in s["image"]}
RUNNING = OURS.keys() - {"migrate"}
TOOLS = Path(sys.executable).parent


def test_the_file_is_what_the_compose_specification_says(tmp_path: Path) -> None:
    def check(file: Path) -> "subprocess.CompletedProcess[str]":
        tool = [str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
        return subprocess.run([*tool, str(file)], capture_output=True, text=True)

    said = check(FILE)
    assert said.returncode == 0, said.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILE.read_text().replace("    healthcheck:", "    healthchek:", 1))
    assert "healthchek" in check(wrong).stdout


def test_the_dockerfile_is_linted() -> None:
    said = subprocess.run([TOOLS / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_images_are_pinned_and_ours_are_locked_down() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":[\w.-]*\d+\.\d+", service["image"]), name
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
    # An entry point that steps down from root does so for its own program only.
    assert SERVICES["redis"]["user"] == "redis"
    for stage in stages():
        assert re.match(r"FROM \S+:\d+\.\d+\.\d+", stage)
    assert re.findall(r"^USER (.+)$", stages()[-1], re.MULTILINE) == ["10001"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    (torch,) = re.findall(r"torch==\S+", DOCKERFILE.read_text())
    assert torch in constraints, "pip would put another torch over it"


def test_no_password_has_a_default() -> None:
    text = FILE.read_text()
    for name, default in re.findall(
        r"\$\{(\w*(?:PASSWORD|SECRET|KEY|LOGIN))(:?[-?][^}]*)?\}", text
    ):
        assert default.startswith(":?") or default == ":-", f"{name}{default}"
    example = (ROOT / "deploy" / "env.example").read_text()
    for name in set(re.findall(r"\$\{(\w+):\?", text)):
        assert f"\n{name}=\n" in example, name


def test_what_must_run_first_is_healthy_first() -> None:
    for name in RUNNING:
        needs = SERVICES[name]["depends_on"]
        assert needs["migrate"]["condition"] == "service_completed_successfully"
        assert needs["s3"]["condition"] == "service_healthy"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name, service in SERVICES.items():
        assert "healthcheck" in service or name == "migrate", name


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture
def environment(
    tmp_path: Path, image: Image, postgresql: str, rabbitmq_url: str, s3_endpoint: str
) -> Iterator[dict[str, str]]:
    """What compose would set, but for where the servers are."""
    from tests.postgresql import empty_database

    bare = {n: v for n, v in os.environ.items() if not n.startswith(("HEADRACE_", "PYTHON"))}
    with empty_database(postgresql) as database:
        yield bare | {
            "PATH": f"{image.programs}:{os.environ['PATH']}",
            "HEADRACE_DATABASE_URL": database,
            "HEADRACE_BROKER_URL": rabbitmq_url,
            "HEADRACE_STORE_URL": "s3://compose",
            "HEADRACE_S3_ENDPOINT": s3_endpoint,
            "HEADRACE_S3_REGION": "us-east-1",
            "HEADRACE_S3_ADDRESSING": "path",
            "HEADRACE_ALLOW_CODE": "[]",
            "HEADRACE_CACHE_DIR": str(tmp_path / "cache"),
            "HOSTNAME": os.uname().nodename,
            "FLOWER_BASIC_AUTH": "user:secret",
        }


def test_every_command_runs_and_becomes_healthy(
    tmp_path: Path, image: Image, environment: dict[str, str]
) -> None:
    flower = str(free_port())
    # Here is no GPU, and one file system instead of a container's each.
    elsewhere = {"cuda:0": "cpu", "5555": flower, "/tmp/": f"{tmp_path}/"}
    migrate = _words(SERVICES["migrate"]["command"])
    _check(migrate, environment, image.app)
    with ExitStack() as stack:
        for name in RUNNING:
            command = _replaced(_words(SERVICES[name]["command"]), elsewhere)
            process = Process(
                name, command, log=tmp_path / f"{name}.log", cwd=image.app, env=environment
            )
            stack.callback(process.stop, grace=10)
        for name in sorted(RUNNING):
            check = _replaced(_test(SERVICES[name]["healthcheck"]["test"]), elsewhere)
            eventually(
                f"{name} is healthy",
                lambda c=check: _run(c, environment, image.app).returncode == 0,
                seconds=60,
            )
        shown = _check(["headrace", "workers", "list", "--json"], environment, image.app)
        assert {worker["pool"] for worker in yaml.safe_load(shown)} == {"default", "gpu"}
        # Behind a login: nobody without it sees a task.
        assert _status(f"http://127.0.0.1:{flower}/workers") == 401
        eventually("beat ticks", lambda: "headrace.sweep" in _log(tmp_path, "beat"), seconds=20)


def test_redis_keeps_nothing_and_wants_a_password(tmp_path: Path) -> None:
    port = free_port()
    elsewhere = {
        "redis-server -": f"redis-server - --port {port}",
        "redis-cli": f"redis-cli -p {port}",
    }
    try:
        programs = Path(find_redis()).parent
    except NotInstalled as error:
        unavailable("Redis", error)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "REDIS_PASSWORD": "hush",
    }
    command = _replaced(_words(SERVICES["redis"]["command"]), elsewhere)
    check = _replaced(_test(SERVICES["redis"]["healthcheck"]["test"]), elsewhere)
    without = _run(command, environment | {"REDIS_PASSWORD": ""}, tmp_path)
    assert without.returncode != 0
    assert "requirepass" in without.stdout + without.stderr
    redis = Process("redis", command, log=tmp_path / "redis.log", cwd=tmp_path, env=environment)
    try:
        eventually("it is healthy", lambda: _run(check, environment, tmp_path).returncode == 0)
        assert _run(check, environment | {"REDIS_PASSWORD": "wrong"}, tmp_path).returncode != 0
        ask = ["redis-cli", "-p", str(port), "config", "get", "*"]
        settings = _check(ask, environment | {"REDISCLI_AUTH": "hush"}, tmp_path).split("\n")
        found = dict(zip(settings[::2], settings[1::2], strict=False))
        kept = (found["save"], found["appendonly"], found["maxmemory-policy"])
        assert kept == ("", "no", "noeviction")
    finally:
        redis.stop(grace=5)


def test_postgresql_is_found_healthy(tmp_path: Path, postgresql: str) -> None:
    from tests.postgresql import programs

    server = sa.make_url(postgresql)
    environment = os.environ | {
        "PATH": f"{programs()}:{os.environ['PATH']}",
        "PGHOST": server.host or str(server.query["host"]),
        "PGPORT": str(server.port or 5432),
    }
    _check(_test(SERVICES["postgres"]["healthcheck"]["test"]), environment, tmp_path)


def test_rabbitmq_is_found_healthy(tmp_path: Path, rabbitmq: Node) -> None:
    if rabbitmq.environment is None:
        pytest.skip("the node that HEADRACE_TEST_RABBITMQ_URL names may be on another host")
    _check(_test(SERVICES["rabbitmq"]["healthcheck"]["test"]), rabbitmq.environment, tmp_path)


def _words(command: str | list[str]) -> list[str]:
    words = shlex.split(command) if isinstance(command, str) else command
    return [word.replace("$$", "$") for word in words]


def _test(test: list[str]) -> list[str]:
    kind, *words = test
    words = _words(words)
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else words


def _replaced(words: list[str], elsewhere: dict[str, str]) -> list[str]:
    for here, there in elsewhere.items():
        words = [word.replace(here, there) for word in words]
    return words


def _run(
    command: list[str], environment: dict[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )


def _check(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = _run(command, environment, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text()
