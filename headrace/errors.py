"""Every error Headrace raises, in one tree.

::

    HeadraceError
    ├── InvalidInput            a record does not fit the model's signature
    ├── InputChanged            a dataset's file is no longer the one that was planned
    ├── OutputLost              what a shard has written is gone before it was published
    ├── IdempotencyConflict     one key, two different payloads
    ├── DatasetExists           the output belongs to another dataset
    ├── DatasetNotEnded         a dataset that is to run again still runs
    ├── DatasetNotFound
    ├── IllegalTransition       job.py forbids the step
    ├── JobNotEnded             a job that is to be deleted still waits or runs
    ├── JobNotFound
    ├── ModelNotFound
    ├── ScheduleExists
    ├── ScheduleNotFound
    ├── JobError                the job has no result
    │   ├── JobUnfinished       not yet, anyway
    │   ├── JobFailed
    │   ├── JobCancelled
    │   └── JobExpired
    ├── WaitTimeout             the wait ended before the job did      (retryable)
    ├── PackageError            a model package is malformed
    │   ├── CodeNotAllowed      the package holds code nobody allowed
    │   └── GoldenMismatch      the model does not reproduce its golden examples
    ├── BadOutput               a model returned what its signature does not say
    ├── ConfigError             a setting is missing or wrong
    ├── NotInstalled            an extra is missing
    ├── Unavailable             a server does not answer               (retryable)
    │   ├── DatabaseUnavailable
    │   ├── BrokerUnavailable
    │   └── StoreUnavailable
    ├── StorageError            an object is not what it should be
    │   ├── ObjectMissing
    │   ├── ObjectExists
    │   └── ObjectCorrupt
    ├── StackError              the embedded stack did not start, or a part of it died
    │   └── StackRunning        one runs in this folder already
    ├── LeaseLapsed             the lease ran out, but nobody took the work yet (retryable)
    ├── LeaseLost               this worker no longer holds its work
    ├── UnitLost                this unit is no longer the worker's, the others are
    └── PackLost                the pack was swept before it was finished (retryable)

``retryable`` says whether the same call may succeed later, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class HeadraceError(Exception):
    """Root of the tree.

    code: stable machine-readable name, also stored with a failed job.
    retryable: whether the same call may succeed later, unchanged.
    """

    code: ClassVar[str] = "headrace_error"
    retryable: ClassVar[bool] = False


class InvalidInput(HeadraceError, ValueError):
    """A record does not fit the signature. Nothing was stored.

    field: path of the wrong field, such as ``inputs[3].image``.
    """

    code = "invalid_input"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def under(self, prefix: str) -> InvalidInput:
        """The same complaint, seen from one level further out."""
        return InvalidInput(f"{prefix}.{self.field}", self.problem)


class InputChanged(HeadraceError):
    """A file of a dataset is not what it was at the plan; submit it anew, to another output."""

    code = "input_changed"


class OutputLost(HeadraceError):
    """What was written is gone before it was published, as after a clean-up; write it again."""

    code = "output_lost"


class IdempotencyConflict(HeadraceError):
    """The key was used before for another payload; choose a new key or send the same inputs."""

    code = "idempotency_conflict"

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"idempotency key {key!r} belongs to job {job_id}, whose model or inputs differ; "
            "use a new key for a new payload"
        )
        self.key = key
        self.job_id = job_id


class DatasetExists(HeadraceError):
    """The output is that of another dataset, with another model, input or options.

    dataset_id: of the one that has it.
    """

    code = "dataset_exists"

    def __init__(self, output: str, dataset_id: str) -> None:
        super().__init__(
            f"{output} is the output of dataset {dataset_id}, which has another model, input or "
            f"options; choose another output, or see `headrace datasets show {dataset_id}`"
        )
        self.dataset_id = dataset_id


class DatasetNotEnded(HeadraceError):
    """Only of a dataset that ran to its end can the failed records run again. Nothing changed."""

    code = "dataset_not_ended"

    def __init__(self, dataset_id: str, state: str) -> None:
        super().__init__(
            f"dataset {dataset_id} is {state}, and did not run to its end; wait for that, or "
            "submit it again to have it go on"
        )
        self.dataset_id = dataset_id


class DatasetNotFound(HeadraceError, LookupError):
    """No such dataset: the id is wrong, or retention has removed it."""

    code = "dataset_not_found"

    def __init__(self, dataset_id: str) -> None:
        super().__init__(
            f"dataset {dataset_id} does not exist; the id is wrong or it ended long ago"
        )
        self.dataset_id = dataset_id


class IllegalTransition(HeadraceError):
    """A job was asked to take a step that job.py forbids."""

    code = "illegal_transition"


class JobNotFound(HeadraceError, LookupError):
    """No such job: the id is wrong, or retention has removed it."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} does not exist; the id is wrong or the job was deleted")
        self.job_id = job_id


class JobNotEnded(HeadraceError):
    """Only jobs that have ended can be deleted; cancel the job first. Nothing was deleted."""

    code = "job_not_ended"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"job {job_id} is {state}; cancel it first (`headrace cancel`), then delete it"
        )
        self.job_id = job_id


class ScheduleNotFound(HeadraceError, LookupError):
    """There is no schedule of that name."""

    code = "schedule_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r}; `headrace schedules list` shows them")


class ScheduleExists(HeadraceError):
    """There is a schedule of that name already."""

    code = "schedule_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a schedule {name!r}; edit it, or remove it first")


class ModelNotFound(HeadraceError, LookupError):
    """No such model or version in the registry; ``headrace models list`` shows what is there."""

    code = "model_not_found"

    def __init__(self, ref: str) -> None:
        super().__init__(f"model {ref!r} is not in the registry; see `headrace models list`")
        self.ref = ref


class JobError(HeadraceError):
    """The job has no result.

    error_code, message: what the job table holds about it.
    """

    code = "job_error"

    def __init__(self, job_id: str, error_code: str, message: str) -> None:
        super().__init__(f"job {job_id}: {error_code}: {message}")
        self.job_id = job_id
        self.error_code = error_code
        self.message = message


class JobUnfinished(JobError):
    """The job has not ended yet, so that there is no result to take; wait for it."""

    code = "job_unfinished"


class JobFailed(JobError):
    """The model, or the worker on its behalf, failed this record."""

    code = "job_failed"


class JobCancelled(JobError):
    """Somebody cancelled the job."""

    code = "job_cancelled"


class JobExpired(JobError):
    """The deadline passed before the job was done."""

    code = "job_expired"


class WaitTimeout(HeadraceError, TimeoutError):
    """The time to wait ran out; what was waited for goes on, and a later wait can pick it up."""

    code = "wait_timeout"
    retryable = True

    def __init__(
        self, pending: int, total: int, first: str, seconds: float, *, what: str = "jobs"
    ) -> None:
        super().__init__(
            f"{pending} of {total} {what} were not done after {seconds:g} s (first: {first}); "
            "they go on, wait again or look at status()"
        )
        self.pending = pending


class PackageError(HeadraceError):
    """A model package is malformed; ``where`` names the file, and the field in it."""

    code = "bad_package"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class CodeNotAllowed(PackageError):
    """The package holds code that the operator has not allowed.

    digest: sha256 (hex) of the file to review, then to add to ``HEADRACE_ALLOW_CODE``.
    """

    code = "code_not_allowed"

    def __init__(self, where: str, digest: str, why: str) -> None:
        super().__init__(
            where,
            f"{why}; review it, then allow it by adding sha256 {digest} to HEADRACE_ALLOW_CODE",
        )
        self.digest = digest


class GoldenMismatch(PackageError):
    """The model does not reproduce its golden examples on this device."""

    code = "golden_mismatch"


class BadOutput(HeadraceError):
    """A model returned a wrong number of rows, or a row that its signature does not describe."""

    code = "bad_output"


class ConfigError(HeadraceError):
    """A setting is missing or wrong; the message names it."""

    code = "bad_config"


class NotInstalled(HeadraceError, ImportError):
    """A part is not installed; the message says which extra brings it."""

    code = "not_installed"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'headrace[{extra}]'")
        self.extra = extra


class Unavailable(HeadraceError):
    """A server does not answer; nothing is lost, try again."""

    code = "unavailable"
    retryable = True


class DatabaseUnavailable(Unavailable):
    """The job table cannot be reached; a submission that raised this was not accepted."""

    code = "database_unavailable"


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached; jobs are still accepted, and found without it."""

    code = "broker_unavailable"


class StoreUnavailable(Unavailable):
    """The object store cannot be reached."""

    code = "store_unavailable"


class StorageError(HeadraceError):
    """An object is not what it should be."""

    code = "storage_error"

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"object {key!r}: {problem}")
        self.key = key


class ObjectMissing(StorageError):
    """The object is not there."""

    code = "object_missing"


class ObjectExists(StorageError):
    """The key is taken; objects are never overwritten."""

    code = "object_exists"


class ObjectCorrupt(StorageError):
    """Length or digest differ from what was recorded when the object was written."""

    code = "object_corrupt"


class StackError(HeadraceError):
    """The embedded stack did not start, or a part of it died; shows the end of that one's log."""

    code = "stack_error"


class StackRunning(StackError):
    """Another process runs a stack in this folder.

    about: what it says of itself: its ``pid``, and addresses by name.
    """

    code = "stack_running"

    def __init__(self, directory: str, about: Mapping[str, str]) -> None:
        said = ", ".join(f"{name} {value}" for name, value in about.items()) or "still starting"
        super().__init__(f"a stack runs in {directory} already: {said}")
        self.about = about


class LeaseLapsed(HeadraceError):
    """The lease ran out, as after an outage; wait for the supervisor to renew it, or be stopped."""

    code = "lease_lapsed"
    retryable = True


class LeaseLost(HeadraceError):
    """The worker incarnation was stopped, its work freed; it must drop everything and leave."""

    code = "lease_lost"


class UnitLost(HeadraceError):
    """The unit was cancelled, expired or freed: stop running it, and discard what it wrote."""

    code = "unit_lost"


class PackLost(HeadraceError):
    """The pack was swept between its write and its finish; store the batch again."""

    code = "pack_lost"
    retryable = True
