"""Whether a torch.export archive is data only.

``torch.export.load``, and the module that comes of it, run code from an archive in many ways.
Found in torch 2.13, and each planted by a test:

- sample inputs that are no ``weights_only`` file are unpickled in full;
- weights and constants marked ``use_pickle``, custom and opaque objects are unpickled;
- ``data/aotinductor`` holds shared libraries, which are loaded;
- sizes are expressions that go through ``sympy.sympify``, which is ``eval``;
- ``guards_code`` is Python source that goes through ``exec``;
- names of parameters are pasted into generated source;
- a treespec imports modules by name;
- a node's target is any attribute path below ``torch``, such as ``torch.serialization.os.mkdir``
  (only torch's verifier stands between that and the call), and some operators write files.

So the archive is read here with torch's own reader (another zip reader might see other
members), and everything in it must be on a list of what is known to be harmless. What is not
on the list counts as code: nothing is refused for good, it only has to be allowed by digest.
This is an audit of the format, not a sandbox for torch's kernels.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from headrace.errors import NotInstalled, PackageError
from headrace.runtimes import pt2_graph

_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json|extra/.*"
    r"|data/weights/model_weights_config\.json|data/constants/model_constants_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+",
    re.DOTALL,
)
_PICKLED = re.compile(r"data/(sample_inputs|weights|constants)/model\.pt")


def why_code(path: Path) -> str | None:
    """Why the archive at `path` counts as code, or None where it holds data only.

    Runs nothing of it. Raises PackageError where it is no torch.export archive, NotInstalled
    without torch.
    """
    try:
        import torch
    except ImportError:
        raise NotInstalled("torch", "worker") from None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "version" in names:
            # torch.export.load falls back to the form that torch had before 2.8.
            return "its form is older than torch 2.8; export it again"
        reader = torch._C.PyTorchFileReader(str(path))
        records: list[str] = reader.get_all_records()
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise PackageError(path.name, f"not a torch.export archive ({reason})") from None
    if "archive_format" not in records or reader.get_record("archive_format") != b"pt2":
        raise PackageError(path.name, "not a torch.export archive (no archive_format)")
    if "models/model.json" not in records:
        raise PackageError(path.name, "not a torch.export archive (no models/model.json)")
    if len({name.lower() for name in names}) != len(names):
        return "two members share a name, and readers may differ in which they take"
    return _why_members(reader, records)


def _why_members(reader: Any, records: list[str]) -> str | None:
    for record in records:
        if _PICKLED.fullmatch(record):
            if not _is_plain(reader.get_record(record)):
                return f"{record} holds more than tensors"
        elif not _PLAIN.fullmatch(record):
            return f"{record} is not known to be data"
        elif record.endswith("_config.json") and (reason := _why_config(_json(reader, record))):
            return f"{record} {reason}"
    reason = pt2_graph.why_code(_json(reader, "models/model.json"))
    return f"models/model.json {reason}" if reason else None


def _json(reader: Any, record: str) -> Any:
    try:
        return json.loads(reader.get_record(record))
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{record} in the .pt2", f"not JSON ({error})") from None


def _why_config(config: Any) -> str | None:
    """Weights and constants must be raw bytes; pickled ones load with weights_only=False."""
    try:
        for entry in config["config"].values():
            if entry["use_pickle"] is not False:
                return "names a pickled tensor"
            if not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                return f"names {entry['path_name']!r}"
    except (AttributeError, KeyError, TypeError) as error:
        return f"is not as expected ({error!r})"
    return pt2_graph.why_code(config)


def _is_plain(data: bytes) -> bool:
    """Whether torch's restricted unpickler takes `data` (torch.export.load tries that first),
    and finds only tensors, numbers and names in it: keys of sample inputs end up in guards.
    """
    import torch

    if not data:
        return True
    try:
        value = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:  # noqa: BLE001 - whatever it does not take counts as code
        return False
    return _is_plain_value(value)


def _is_plain_value(value: Any) -> bool:
    import torch

    if isinstance(value, dict):
        return all(map(_is_plain_value, value)) and all(map(_is_plain_value, value.values()))
    if type(value) in (tuple, list):
        return all(map(_is_plain_value, value))
    if isinstance(value, str):
        return pt2_graph.is_name(value)
    return type(value) in (torch.Tensor, torch.nn.Parameter, int, float, bool, type(None))
