"""Private servers for the tests: started here, on free ports, and gone when the tests are.

No test ever talks to a server that it did not start, unless a ``HEADRACE_TEST_*`` variable
names one.
"""

import os
import secrets
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from headrace.errors import NotInstalled, StackError
from headrace.stack.process import Process
from headrace.stack.servers import Redis, on_free_port


def unavailable(service: str, why: object) -> NoReturn:
    """Skip on a laptop; fail in CI, where a skipped test would look like a passed one."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{service} could not be started, and CI=true: {why}", pytrace=False)
    pytest.skip(f"{service} could not be started: {why}")


@dataclass
class Server:
    """A server of our own, which can be stopped, and started again where it was.

    launch: starts its process. ready: whether it answers.
    """

    url: str
    launch: Callable[[], Process]
    ready: Callable[[], bool]
    process: Process

    def stop(self, grace: float = 5) -> None:
        """With a grace of 0 it is killed."""
        self.process.stop(grace)

    def start(self, timeout: float = 60) -> None:
        """Returns when it answers."""
        self.process = self.launch()
        self.process.wait_until(self.ready, timeout)


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """The URL of a Redis server: one of our own, or what ``HEADRACE_TEST_REDIS_URL`` names."""
    named = os.environ.get("HEADRACE_TEST_REDIS_URL")
    if named:
        yield named
        return
    with own_redis(directory) as server:
        yield server.url


@contextmanager
def own_redis(directory: Path) -> Iterator[Server]:
    """A Redis server that keeps nothing on disk."""
    try:
        redis = Redis()
        process, port = on_free_port(partial(_start, redis, directory), redis.ready, 10)
    except (NotInstalled, StackError) as error:
        unavailable("Redis", error)
    server = Server(
        redis.url(port),
        partial(_start, redis, directory, port),
        partial(redis.ready, port),
        process,
    )
    try:
        yield server
    finally:
        server.stop()


def _start(redis: Redis, directory: Path, port: int) -> Process:
    return Process(
        "redis",
        [redis.program, "-"],
        log=directory / "redis.log",
        cwd=directory,
        stdin=redis.config(port),
    )


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """The URL of an S3 server: moto's, or the one that ``HEADRACE_TEST_S3_URL`` names.

    Credentials for moto's are whatever; for another, those of boto3's usual chain.
    """
    named = os.environ.get("HEADRACE_TEST_S3_URL")
    if named:
        yield named
        return
    try:
        process, port = on_free_port(partial(_start_moto, directory), _moto_ready, 60)
    except StackError as error:
        unavailable("moto's S3", error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stop(grace=0)


def _start_moto(directory: Path, port: int) -> Process:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Process("moto", command, log=directory / "moto.log", cwd=directory)


def _moto_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def s3_bucket(endpoint: str) -> Iterator[str]:
    """A bucket of our own; it goes, with all that is in it."""
    import boto3

    name = f"headrace-test-{secrets.token_hex(8)}"
    bucket = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1").Bucket(name)
    bucket.create()
    try:
        yield name
    finally:
        bucket.objects.delete()
        bucket.delete()
