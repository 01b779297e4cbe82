"""``headrace store``: where results and model packages lie."""

from __future__ import annotations

import click

from headrace.settings import load_settings, masked
from headrace.storage import open_store
from headrace.storage.rehearsal import rehearse


@click.group()
def store() -> None:
    """Prepare the object store."""


@store.command()
def create() -> None:
    """Make the bucket, or the folder, if it is not there, and try it.

    An object is written, read, listed and deleted, as jobs will do.
    """
    settings = load_settings()
    opened = open_store(settings)
    made = opened.create()
    click.echo(f"{'made' if made else 'found'} {masked(settings.store_url)}")
    if not rehearse(opened):
        click.echo(
            "Warning: this server overwrites although it is asked not to (it ignores "
            "If-None-Match). Headrace never writes a key twice; keep others out of the prefix.",
            err=True,
        )
