"""The C++ core of Muster as Python sees it. Private: `muster`'s own modules are the public face.

Every call that can block releases the GIL. Threads: any, for everything.
"""

from collections.abc import Iterable
from typing import Any, final

VERSION: str
"""Of the software."""

# --- What Python and the core have in common: `muster/shared.hpp` says what each is.
BLOB_BYTES: int
RESULT_BLOB_BYTES: int
MAX_BODY_BYTES: int
MAX_PAYLOAD_BLOBS: int
MAX_RESULT_BYTES: int
MAX_LABELS: int
MAX_TEXT_BYTES: int
WINDOW_TASKS: int
"""`JobOptions::window`."""
NODE_VARIABLE: str
SLOT_CORES_VARIABLE: str
BLOBS_VARIABLE: str
JOBLIB_CORES_VARIABLE: str
PROGRAMS_VARIABLE: str
THREAD_VARIABLES: tuple[str, ...]
LINE_KINDS: tuple[int, int, int, int]
"""Of `muster::OutputLine`: standard output, standard error, log, warning."""
STORE_OPERATIONS: tuple[int, int, int, int, int, int, int, int, int, int, int]
STORE_STATES: tuple[int, int, int, int, int, int]
"""In the order of `muster::StoreOperation` and `muster::StoreStatus`."""

def default_endpoint() -> str:
    """What MUSTER_BROKER names, else the user's running broker, else ""."""

class Error(Exception):
    """What `muster::Error` says; `muster.errors` turns it into the public types.

    `args` is `(code, kind, message, traceback, extra)`; `code` is the name of an `ErrorCode`
    ("invalid", "task_failed", "task_timed_out", "task_cancelled", "task_lost", "no_worker",
    "disconnected", "refused", "wait_timed_out", "unusable", "out_of_space"), `extra` is bytes.
    """

@final
class Buffer:
    """Bytes of the core without a copy: the buffer protocol and `len`. Read-only, unless it is a
    copied map of a blob."""

    @property
    def is_blob(self) -> bool:
        """A result that is a blob: the pool counts it as not consumed while this lives."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Blob:
    """`muster::Blob`. The pool keeps it at least as long as this handle lives."""

    @property
    def id(self) -> bytes:
        """Equal for equal content, except of results and files: these are as they are."""
    @property
    def size(self) -> int: ...
    def map(self, offset: int, size: int, copied: bool) -> Buffer:
        """A part of the content, which all processes of the node share; `copied`: a private copy on
        write. The map outlives the handle. Raises RuntimeError."""

def address_of(data: Any) -> int:
    """Where contiguous bytes are in memory."""

def fingerprint(data: Any) -> int:
    """A hash of contiguous bytes: of all, up to 264 KiB, else of 66 blocks of 4 KiB."""

Failure = tuple[str, str, str, str, bytes]
"""As `Error.args`."""
Outcome = tuple[int, int, bytes | Buffer | tuple[bytes | Buffer, list[Blob]] | None, Failure | None]
"""(job, sequence, result or None, failure or None); large results are Buffers, and those that name
blobs come with them."""
Line = tuple[int, int, str, int, int, str, str, int]
"""(job, sequence, node, kind, level, name, text, dropped): `muster::OutputLine`."""

StoreAnswer = tuple[
    int, str, bytes | Buffer, int, int, str, str, str, list[tuple[str, int, float, int]]
]
"""(status, text, value, size, version, machine, file, folder, [(key, size, accessed, hits)]): as
`muster::StoreReply`."""
STORE_PIECE_BYTES: int
"""Values up to this size are in the answer itself; larger ones come in pieces of it."""

@final
class Asked:
    """A question to a store, on its way."""

    def wait(self, timeout: float) -> StoreAnswer | None:
        """None when `timeout` passed; the answer, once. Error when nothing will come."""

@final
class Producer:
    """`muster::Producer` and one `muster::Channel` of it.

    `endpoint` "" starts an embedded pool of `workers` workers with `slots` slots each (0: the
    number of cores), whose python tasks run on `python`, unless MUSTER_BROKER names a broker;
    with `embedded` it does whatever that says, and `workers` may be 0. Times are in seconds. Raises
    Error.
    """

    def __init__(
        self,
        *,
        endpoint: str = "",
        label: str = "",
        embedded: bool = False,
        workers: int = 1,
        slots: int = 0,
        executor: str = "process",
        python: str = "",
        python_version: str = "",
        environment: dict[str, str] = ...,
        spool: str = "",
        programs: str = "",
        connect_timeout: float = 30.0,
        broker_timeout: float = 0.0,  # no limit
    ) -> None: ...
    @property
    def endpoint(self) -> str: ...
    def total_slots(self) -> int: ...
    def status(self, timeout: float = 5.0) -> str:
        """JSON, as `muster status --json`."""
    def wait_for_slots(self, slots: int, timeout: float) -> bool: ...
    def up(self, hosts: str, origin: str) -> None:
        """Has the broker bring up the hosts of a hosts file; blocks until it has accepted it."""
    def next_output(self, timeout: float) -> list[Line]: ...
    def use_store(self, store: str) -> None:
        """Lets this producer's tasks use that store; they are refused every other one."""
    def ask(self, claimant: int, operation: int, store: str, key: str, **fields: object) -> Asked:
        """Asks the pool's stores; `operation` and fields as in `muster::StoreQuestion`."""
    def close(self) -> None:
        """Ends the session and the embedded pool; every wait ends. Again: no effect."""
    # --- The channel ---
    def open_job(
        self,
        *,
        label: str,
        python: str,
        body: Any,
        blobs: Iterable[Blob] = (),
        timeout: float = 0.0,
        retries: int = 0,
        priority: int = 0,
        crash_budget: int = 3,
        max_running: int = 0,
        cpus: float = 0.0,
        memory_bytes: int = 0,
        gpus: int = 0,
        labels: list[str] = ...,
        forward_output: bool = False,
        counts_results: bool = False,
    ) -> int: ...
    def push(self, job: int, payload: Any, blobs: Iterable[Blob] = ()) -> int:
        """Returns the task's sequence. The payload is copied, and names these blobs. Blocks only
        where `scatter` does: a payload beyond 1 MiB becomes a blob."""
    def scatter(self, data: Any, timeout: float) -> Blob | None:
        """Puts contiguous bytes into the pool, unless they are there. Blocks while they are copied,
        and up to `timeout` while there is no room for them (None). Raises Error."""
    def scatter_file(self, path: str, offset: int, size: int) -> Blob:
        """A part of a file, which stays where it is."""
    def has_blobs(self) -> bool:
        """False: everything has to travel inside messages."""
    def cancel(self, job: int, sequence: int | None = None) -> None: ...
    def consumed(self, job: int, bytes: int) -> None: ...
    def close_job(self, job: int) -> None: ...
    def drop_job(self, job: int) -> None: ...
    def next(self, timeout: float | None, most: int = 1024) -> list[Outcome]:
        """Blocks; [] when `timeout` passed or `wake` was called; Error when nothing will come."""
    def wake(self) -> None: ...
    def waiting_reason(self, job: int) -> str: ...

@final
class RunnerTask:
    id: int
    job_key: int
    label: str
    body: bytes | Buffer
    job_blobs: list[Blob]
    """Of the body."""
    inline_results: bool
    """Of the job: results have no blobs."""
    sequence: int
    attempt: int
    payload: bytes | Buffer
    blobs: list[Blob]
    """Of the payload."""

@final
class RunnerLink:
    """`muster::RunnerLink`. When a task is to stop (cancelled or timed out on a thread slot), the
    thread that took it from `next` gets `stop_exception` raised in it, once, if it still runs it.
    """

    def __init__(
        self,
        descriptor: int = 3,
        *,
        stop_exception: type[BaseException],
        max_result_bytes: int,
    ) -> None: ...
    def ready(self) -> None: ...
    def next(self) -> RunnerTask: ...
    def current(self) -> int | None:
        """The task that this thread took from `next` and that did not end yet."""
    def task(self) -> int | None:
        """The task that this thread works for, also when it was started by one that does."""
    def ask(
        self, task_id: int, claimant: int, operation: int, store: str, key: str, **fields: object
    ) -> Asked:
        """As `Producer.ask`; what is claimed ends with the task at the latest."""
    def finish(self, task_id: int, result: Any, blobs: Iterable[Blob] = ()) -> None:
        """After it, and after `fail`, no stop of this task arrives any more."""
    def make_blob(self, parts: Iterable[Any]) -> Blob:
        """One blob for a result of these contiguous bytes in a row. Blocks on output. Raises
        RuntimeError when there is no room."""
    def keeps_blobs(self) -> bool:
        """False: there is no place for the blobs of results."""
    def shares_files(self) -> bool:
        """Whether this process sees the files of the client's machine."""
    def fail(self, task_id: int, kind: str, message: str, traceback: str, extra: bytes) -> None: ...
    def say(self, task_id: int, kind: int, level: int, name: str, text: str) -> None: ...
    def forgotten(self) -> list[int]: ...
    def abandon(self) -> None: ...
