"""What is asked for, checked before anything is stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.dataset import Spec
from headrace.datasets.files import WILD
from headrace.datasets.formats import Compression, Format
from headrace.errors import InvalidInput, StorageError
from headrace.signature import Signature

if TYPE_CHECKING:
    from headrace.settings import Settings


def checked(spec: Spec, signature: Signature, store_url: str) -> Spec:
    """The spec as it is kept: paths without a trailing slash or ``file://``.

    store_url: of the object store, which is not for outputs: what lies there is tidied away.
    What the files have to say about it, the plan asks them. Raises InvalidInput.
    """
    input, output = _place("input", spec.input), _place("output", spec.output)
    if WILD & set(output):
        raise InvalidInput("output", f"{output!r} is a pattern; expected a folder")
    if not input.startswith("s3://") and not WILD & set(input) and not os.path.exists(input):
        raise InvalidInput("input", f"there is no {input}")
    for other, name in ((_place("store", store_url), "the object store"), (input, "the input")):
        if f"{output}/".startswith(f"{other}/"):
            raise InvalidInput("output", f"{output} is in {name}, {other}; choose another folder")
    _check_fields(spec, signature)
    _check_format(spec)
    if spec.shard_rows is not None and spec.shard_rows < 1:
        raise InvalidInput("shard_rows", f"expected at least 1, got {spec.shard_rows}")
    return replace(spec, input=input, output=output)


def check_output(output: str, settings: Settings) -> None:
    """Whether a new dataset can have this folder: nothing is in it, and it can be written to.

    Of a folder in S3 only the first is asked. Raises InvalidInput, StoreUnavailable.
    """
    if output.startswith("s3://"):
        from headrace.datasets import objects

        try:
            found = objects.any_in(output, settings)
        except StorageError as error:
            raise InvalidInput("output", str(error)) from None
    else:
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
            found = next((each for each in os.listdir(output) if not each.startswith(".")), None)
        except OSError as error:
            raise InvalidInput("output", f"{output} cannot be a folder ({error})") from None
        if not os.access(output, os.W_OK | os.X_OK):
            raise InvalidInput("output", f"{output} cannot be written to")
    if found is not None:
        raise InvalidInput("output", f"{output} holds {found} already; choose an empty folder")


def _place(field: str, where: str) -> str:
    """A path, or ``s3://bucket/key``, in one spelling."""
    scheme, separator, rest = where.partition("://")
    if separator and scheme not in ("s3", "file"):
        raise InvalidInput(field, f"expected a path or s3://bucket/…, got {where!r}")
    if separator and scheme == "s3":
        place = f"s3://{rest.rstrip('/')}"
        if not rest.strip("/") or rest.startswith("/"):
            raise InvalidInput(field, f"expected s3://bucket/…, got {where!r}")
        return place
    path = rest if separator else where
    if not path:
        raise InvalidInput(field, "expected a path or s3://bucket/…, got nothing")
    return os.path.abspath(path)


def _check_fields(spec: Spec, signature: Signature) -> None:
    fields = {field.name: field for field in signature.inputs}
    for name in spec.inputs:
        if name not in fields:
            raise InvalidInput(f"inputs.{name}", f"the model has {', '.join(sorted(fields))}")
    for name in spec.fetch:
        if name not in fields or fields[name].dtype != "bytes":
            raise InvalidInput(f"fetch.{name}", "is no input of bytes, to be filled from a file")


def _check_format(spec: Spec) -> None:
    kinds: Mapping[str, type[Format] | type[Compression]] = {
        "format": Format,
        "compression": Compression,
    }
    for field, kind in kinds.items():
        known = [each.value for each in kind]
        if getattr(spec, field) not in known:
            raise InvalidInput(
                field, f"expected one of {', '.join(filter(None, known))}, got {spec.format!r}"
            )
    if spec.compression and spec.format == Format.PARQUET:
        raise InvalidInput("compression", "Parquet compresses inside, by itself; leave it out")
