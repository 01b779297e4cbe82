"""``python -m workers --device cuda:0``: supervised workers of one pool, one per device."""

from __future__ import annotations

import logging
import os
import sys

import click

from headrace.errors import HeadraceError
from headrace.settings import load_settings
from workers.supervisor import Supervisor


@click.command()
@click.option("--pool", help="Whose jobs to take. Default: HEADRACE_POOL.")
@click.option(
    "--device", "devices", multiple=True, default=["cpu"], show_default=True,
    help="cpu or cuda:N; repeat it for several devices, each with a process of its own.",
)  # fmt: skip
def main(pool: str | None, devices: tuple[str, ...]) -> None:
    """Take jobs of a pool, one supervised worker process per device."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if pool is not None:
        os.environ["HEADRACE_POOL"] = pool
    try:
        sys.exit(Supervisor(load_settings(), devices).run())
    except HeadraceError as error:
        sys.exit(f"headrace worker: {error}")


if __name__ == "__main__":
    main(prog_name="headrace worker")
