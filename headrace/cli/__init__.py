"""The ``headrace`` command. A subcommand's module is imported when it is called.

So ``headrace --help`` is quick, and a command whose extra is missing says so and hides no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from headrace.cli.exits import Exit, exit_of
from headrace.errors import HeadraceError, NotInstalled

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("headrace.cli.datasets:run", "Run a model over files of records."),
    "datasets": ("headrace.cli.datasets:datasets", "See and cancel what `run` began."),
    "submit": ("headrace.cli.submit:submit", "Queue every record of a file as a job."),
    "status": ("headrace.cli.jobs:status", "Show a job, and what it waits for."),
    "wait": ("headrace.cli.jobs:wait", "Wait until jobs have ended."),
    "result": ("headrace.cli.jobs:result", "Print a job's outputs, or write them to a file."),
    "cancel": ("headrace.cli.jobs:cancel", "Cancel jobs that have not ended."),
    "delete": ("headrace.cli.jobs:delete", "Delete jobs that have ended, with their results."),
    "list": ("headrace.cli.jobs:list_", "List jobs, newest first."),
    "replay": ("headrace.cli.replay:replay", "Queue jobs again that ended without a result."),
    "pause": ("headrace.cli.pauses:pause", "Have no worker begin a model's or a pool's jobs."),
    "resume": ("headrace.cli.pauses:resume", "Undo a pause."),
    "paused": ("headrace.cli.pauses:paused", "List what is paused, by whom and why."),
    "schedules": ("headrace.cli.schedules:schedules", "Run datasets once per date."),
    "models": ("headrace.cli.models:models", "Make, check and register model packages."),
    "up": ("headrace.cli.stack:up", "Start Redis, workers and Flower on this host."),
    "worker": ("headrace.cli.worker:worker", "Take jobs of a pool, supervised."),
    "workers": ("headrace.cli.workers:workers", "See who takes jobs."),
    "doctor": ("headrace.cli.doctor:doctor", "Say what is wrong with a deployment."),
    "db": ("headrace.cli.db:db", "Bring the job table's schema up to date."),
    "store": ("headrace.cli.store:store", "Prepare the object store."),
    "config": ("headrace.cli.config:config", "Show the settings and where they come from."),
}
"""By name: where the command is, and its line in ``headrace --help``."""


class LazyGroup(click.Group):
    """A group whose commands are listed by name and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command. Raises NotInstalled where its extra is missing."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except NotInstalled:
            raise
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("headrace"):
                raise
            raise NotInstalled(f"{error.name} (for `headrace {cmd_name}`)", "worker") from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error of Headrace becomes one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(exit_of(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(Exit.INTERRUPTED) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="headrace %(version)s")
def main() -> None:
    """Batch inference over a queue, with a durable job table."""
