"""Imports a package's handler, which the operator has allowed by digest."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from headrace.errors import CodeNotAllowed, PackageError


def import_handler(path: Path, digest: str) -> ModuleType:
    """The handler at `path` as a module of its own. Runs it.

    digest: sha256 (hex) of the source that is allowed; exactly those bytes run. Raises
    CodeNotAllowed where the file has changed since, PackageError where it does not import.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PackageError(path.name, f"cannot be read ({error})") from None
    found = hashlib.sha256(source).hexdigest()
    if found != digest:
        raise CodeNotAllowed(path.name, found, "has changed since it was allowed")
    name = f"headrace_handler_{digest}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and pickle look their module up by name.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise PackageError(
            path.name, f"does not import ({type(error).__name__}: {error})"
        ) from error
    return module
