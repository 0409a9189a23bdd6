"""One connection to a pool: jobs go out through it, outcomes come to the handlers of their jobs.

Owner: a ComputePool, or the joblib backend. A Session owns one native Producer and two daemon
threads: "muster-dispatch" calls the handlers, "muster-output" shows what tasks say.
Threads: any, for everything. Only what says so blocks.
Fork: a forked child cannot use it; every call there raises at once.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster import _native
from muster._data import failures
from muster._data.blobs import Space
from muster._data.portable import Packed
from muster._link import stores
from muster._link.dispatch import Core, Handler, Route, live_cores, rebuilt
from muster._link.output import Printer, Sink

CONSUMED_STEP = 1 << 18  # bytes: a small part of what the core tells the broker at once


@dataclass(frozen=True)
class Node:
    """A node of the pool as the broker sees it.

    `state`: "up", or what a machine without a worker does: "connecting", "preparing", "waiting" to
    try again, "failed" or "ending"; `detail` says more, such as what went wrong and what to do.
    `busy`: tasks it has now, running or about to; `cores`, `memory_bytes` and `gpus`: of its
    machine; `paused`: why it takes no tasks for a while; `worker`: the broker's short name of its
    worker, such as "w1", empty without one.
    """

    name: str
    worker: str = ""
    slots: int = 0
    executor: str = ""
    python: str = ""
    cores: int = 0
    busy: int = 0
    tasks_done: int = 0
    draining: bool = False
    process_id: int = 0
    round_trip_seconds: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    labels: tuple[str, ...] = ()
    paused: str = ""
    state: str = "up"
    address: str = ""
    detail: str = ""


class Job:
    """A function with options, and its tasks. Made by `Session.open_job`. Threads: any."""

    __slots__ = ("_consumed", "_core", "_number", "_route", "session")

    def __init__(self, session: Session, core: Core, number: int, route: Route) -> None:
        self.session = session
        self._core = core
        self._number = number
        self._route = route
        self._consumed = 0  # bytes that the core was not told yet

    def push(self, payload: Packed, task: object) -> int:
        """Adds a task and returns its sequence; the handler is given `task`, perhaps before this
        returns and then on this thread. Blocks only where `Space.scatter` does, for payloads beyond
        1 MiB. Raises what ended the session, if it ended."""
        core = self._core
        if core.forked or core.failure is not None or core.closing:
            core.check()
        route = self._route
        try:
            sequence = core.producer.push(self._number, *payload)
        except _native.Error as error:
            raise rebuilt(error) from None
        route.expect(sequence, task)
        if core.failure is not None:  # it ended meanwhile, and may have missed this task
            with route.lock:
                missed = sequence in route.missing
                route.missing.pop(sequence, None)
            if missed:
                core.check()
        return sequence

    def missing(self) -> list[Any]:
        """What the pushes of tasks without outcome were given."""
        with self._route.lock:
            return list(self._route.missing.values())

    def cancel(self, sequence: int | None = None) -> None:
        """Asks to end one task, or all; their outcomes still arrive, as cancelled at the latest."""
        if not self._is_over():
            with contextlib.suppress(_native.Error):
                self._core.producer.cancel(self._number, sequence)

    def consumed(self, size: int) -> None:
        """The program has what was in so many bytes of results (`tasks.counted_bytes`), of a job
        that counts them: more of its tasks may start. Does not block."""
        with self._route.lock:
            self._consumed += size
            if self._consumed < CONSUMED_STEP:
                return
            size, self._consumed = self._consumed, 0
        if not self._is_over():
            with contextlib.suppress(_native.Error):
                self._core.producer.consumed(self._number, size)

    def close(self) -> None:
        """No more pushes; what was pushed goes on. Again: no effect."""
        if self._is_over() or self._route.ended:
            return
        self._route.ended = True
        with contextlib.suppress(_native.Error):
            self._core.producer.close_job(self._number)
        if not self._route.missing:
            self._core.routes.pop(self._number, None)

    def drop(self) -> None:
        """Cancels what is left; the handler is not called again. Again: no effect."""
        self._route.drop()
        if self._core.routes.pop(self._number, None) is not None and not self._is_over():
            with contextlib.suppress(_native.Error):
                self._core.producer.drop_job(self._number)

    def waiting_reason(self) -> str:
        """Why the broker says that the job waits; "" while it does not."""
        self._core.check()
        return self._core.producer.waiting_reason(self._number)

    def _is_over(self) -> bool:
        return self._core.forked or self._core.closing or self._core.failure is not None


class Session:
    """See the top of this file. The constructor connects, or starts an embedded pool; it blocks up
    to `connect_timeout` seconds and raises MusterError (BrokerLost, VersionMismatch, …). A broker
    that is silent for `broker_timeout` seconds ends the session; 0: however long it is silent, the
    session waits and says so on standard error."""

    def __init__(
        self,
        *,
        broker: str = "",
        label: str = "",
        output: Sink = False,
        workers: int = 1,
        slots: int = 0,
        executor: str = "process",
        python: str = "",
        python_version: str = "",
        environment: Mapping[str, str] | None = None,
        spool: str = "",
        programs: str = "",
        connect_timeout: float = 30.0,
        broker_timeout: float = 0.0,
        one_machine: bool = False,
    ) -> None:
        """`one_machine`: no worker is on another one."""
        self.python_version = python_version
        self.forwards_output = output is not False
        try:
            producer = _native.Producer(
                endpoint=broker,
                label=label,
                embedded=not broker,
                workers=workers,
                slots=slots,
                executor=executor,
                python=python,
                python_version=python_version if python else "",
                environment=dict(environment or {}),
                spool=spool,
                programs=programs,
                connect_timeout=connect_timeout,
                broker_timeout=broker_timeout,
            )
        except _native.Error as error:
            raise rebuilt(error) from None
        core = Core(producer, Printer(output) if self.forwards_output else None)
        self._core = core
        self.space = Space(producer, one_machine)
        self._finalizer = weakref.finalize(self, Core.close, core)  # also when the program ends
        live_cores.add(core)
        stores.tell_names(core)
        core.start()

    @property
    def endpoint(self) -> str:
        """Of the broker, to hand to other programs."""
        return self._core.producer.endpoint

    @property
    def closed(self) -> bool:
        return self._core.closing or self._core.failure is not None

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, in which no outcome ever arrives."""
        return self._core.forked

    def check(self) -> None:
        """Raises what a push would raise, if the session is over."""
        self._core.check()

    def open_job(
        self,
        body: Packed,
        label: str,
        handler: Handler,
        *,
        timeout: float = 0.0,
        retries: int = 0,
        priority: int = 0,
        max_running: int = 0,
        cpus: float = 0.0,
        memory_bytes: int = 0,
        gpus: int = 0,
        labels: tuple[str, ...] = (),
        forward_output: bool | None = None,
        counts_results: bool = False,
    ) -> Job:
        """A job whose tasks run `body` (see `tasks.make_body`); does not block.

        `handler(task, result, failure)` is called once per task with what its push was given, on
        the dispatcher thread, in completion order (on the pushing thread if the outcome is there
        before the push returns); it must not block. `timeout` in seconds, per task, from its start.
        `counts_results`: `Job.consumed` says what became of them, and no task starts while the job
        holds too much; otherwise the handler consumes them.
        """
        core = self._core
        core.check()
        route = Route(handler)
        with core.lock:  # no outcome can arrive before the route is known: nothing is pushed yet
            if core.failure is not None:
                raise failures.rebuild(core.failure)
            try:
                number = core.producer.open_job(
                    label=label,
                    python=self.python_version,
                    body=body.body,
                    blobs=body.blobs,
                    timeout=timeout,
                    retries=retries,
                    priority=priority,
                    max_running=max_running,
                    cpus=cpus,
                    memory_bytes=memory_bytes,
                    gpus=gpus,
                    labels=list(labels),
                    forward_output=(
                        self.forwards_output if forward_output is None else forward_output
                    ),
                    counts_results=counts_results,
                )
            except _native.Error as error:
                raise rebuilt(error) from None
            core.routes[number] = route
        return Job(self, core, number, route)

    def up(self, hosts: str, origin: str) -> None:
        """Has the broker bring up the hosts of a hosts file (docs/hosts.md), which `origin` names
        in errors. Blocks until it has accepted them; `status` shows how they come."""
        self._core.check()
        try:
            self._core.producer.up(hosts, origin)
        except _native.Error as error:
            raise rebuilt(error) from None

    def total_slots(self) -> int:
        """Slots of the pool as the broker said last; follows workers that come and go."""
        self._core.check()
        return self._core.producer.total_slots()

    def wait_for_slots(self, slots: int, timeout: float) -> bool:
        """Blocks until `slots` slots are connected, at most `timeout` seconds; False: fewer are."""
        self._core.check()
        try:
            return self._core.producer.wait_for_slots(slots, timeout)
        except _native.Error as error:
            raise rebuilt(error) from None

    def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """What `muster status --json` shows; blocks up to `timeout` seconds."""
        self._core.check()
        try:
            status: dict[str, Any] = json.loads(self._core.producer.status(timeout))
        except _native.Error as error:
            raise rebuilt(error) from None
        return status

    def nodes(self) -> list[Node]:
        """The workers that are connected now, and the machines that should have one; blocks as
        `status`."""
        status = self.status()
        rows = {row["name"]: row for row in status["nodes"]}
        nodes = [_node(worker, rows.get(worker["node"])) for worker in status["workers"]]
        with_worker = {node.name for node in nodes}
        nodes += [
            Node(
                name=name,
                state="connecting" if row["state"] == "up" else row["state"],  # its worker comes
                address=row["address"],
                detail=_detail(row),
            )
            for name, row in rows.items()
            if name not in with_worker
        ]
        return nodes

    def close(self) -> None:
        """Cancels what has no outcome, ends the threads and the embedded pool; what tasks said so
        far is shown first. Blocks at most a few seconds. Again: no effect."""
        self._core.close()
        self._finalizer.detach()
        live_cores.discard(self._core)


def _node(worker: Mapping[str, Any], row: Mapping[str, Any] | None) -> Node:
    return Node(
        name=worker["node"],
        worker=worker["worker"],
        slots=worker["slots"],
        executor=worker["executor"],
        python=worker["python"],
        cores=worker["cores"],
        busy=min(worker["leases"], worker["slots"]),
        tasks_done=worker["tasks_done"],
        draining=worker["draining"],
        process_id=worker["process_id"],
        round_trip_seconds=worker["round_trip_us"] / 1e6,
        memory_bytes=worker["memory_bytes"],
        gpus=worker["gpus"],
        labels=tuple(worker["labels"]),
        paused=worker["paused"],
        state=row["state"] if row else "up",
        address=row["address"] if row else "",
        detail=_detail(row) if row else "",
    )


def _detail(row: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (row["step"], row["detail"]) if part)
