"""Models that are plain Python: a handler, with or without weights of its own form.

The handler has one class::

    class Handler:
        def load(self, weights, device):
            # Optional; called once. weights: path of the weights file, or None.

        def forward(self, records):
            # records: list of dicts, one per record, as the signature says. Returns a list as
            # long: for each record a dict of outputs, or headrace.Failed or headrace.Retry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.errors import BadOutput, InvalidInput, PackageError
from headrace.job import Done, Failed, Outcome, Retry
from headrace.runtimes import Loadable, Model
from headrace.runtimes.handlers import import_handler
from headrace.signature import Record, Signature


class PythonModel:
    """A handler behind the `headrace.runtimes.Model` protocol.

    memory: 0; what a handler holds is not known.
    """

    def __init__(self, handler: Any, signature: Signature) -> None:
        self._handler = handler
        self._signature = signature
        self.memory = 0

    def infer(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """See `headrace.runtimes.Model.infer`. A record's wrong outputs fail that record only."""
        answers = forward(self._handler, records)
        return [
            _outcome(answer, self._signature, f"outputs[{row}]")
            for row, answer in enumerate(answers)
        ]

    def close(self) -> None:
        """Drop the handler."""
        self._handler = None


def load(package: Loadable, device: str) -> Model:
    """See `headrace.runtimes.load`."""
    return PythonModel(open_handler(package, device), package.signature)


def open_handler(package: Loadable, device: str) -> Any:
    """The package's ``Handler``, made and loaded. Raises PackageError where it has none."""
    if package.handler is None:
        raise PackageError("model.toml: handler", "a python model needs one")
    module = import_handler(package.root / package.handler, package.code[package.handler])
    kind = getattr(module, "Handler", None)
    if not isinstance(kind, type) or not callable(getattr(kind, "forward", None)):
        raise PackageError(package.handler, "has no class Handler with a method forward(records)")
    handler: Any = kind()
    if callable(getattr(handler, "load", None)):
        handler.load(package.root / package.weights if package.weights else None, device)
    return handler


def forward(handler: Any, records: Sequence[Record]) -> Sequence[Any]:
    """What the handler answers. Raises BadOutput unless it is one answer per record."""
    answers = handler.forward([dict(record) for record in records])
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        raise BadOutput(f"forward returned a {type(answers).__name__}; expected a list")
    if len(answers) != len(records):
        raise BadOutput(f"forward returned {len(answers)} answers for {len(records)} records")
    return answers


def _outcome(answer: Any, signature: Signature, where: str) -> Outcome:
    if isinstance(answer, Retry | Failed):
        return answer
    outputs = answer.outputs if isinstance(answer, Done) else answer
    if not isinstance(outputs, Mapping):
        return Failed(
            BadOutput.code, f"{where}: expected a mapping of outputs, got {type(outputs).__name__}"
        )
    try:
        return Done(signature.check_output(outputs, where))
    except InvalidInput as error:
        return Failed(BadOutput.code, str(error))
