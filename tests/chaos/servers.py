"""The servers that all scenarios of a run share; each is started when it is first asked for."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from tests.postgresql import make_template, own_postgresql
from tests.rabbitmq import own_rabbitmq
from tests.services import Server, own_redis, s3_server


class Servers:
    """Private, always: they will be stopped, killed and wiped."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    @cached_property
    def redis(self) -> Server:
        return self._stack.enter_context(own_redis(self._folder))

    @cached_property
    def rabbitmq(self) -> Server:
        server = self._stack.enter_context(own_rabbitmq()).server
        assert server is not None
        return server

    @cached_property
    def postgresql(self) -> Server:
        server = self._stack.enter_context(own_postgresql())
        make_template(server.url)
        return server

    @cached_property
    def s3(self) -> str:
        """An endpoint with the bucket ``chaos``."""
        import boto3

        endpoint = self._stack.enter_context(s3_server(self._folder))
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket="chaos"
        )
        return endpoint

    def mend(self) -> None:
        """Start again what a scenario that was cut short left broken."""
        for server in vars(self).values():
            if isinstance(server, Server) and not server.ready():
                server.stop(grace=0)
                server.start()

    def broker(self, name: str) -> Server:
        return {"redis": lambda: self.redis, "rabbitmq": lambda: self.rabbitmq}[name]()
