"""From hosts to nodes: waits until the broker has the pool's machines, shows how far it is, and
says what is wrong with those that do not come.

Owner: a ComputePool that starts. Threads: the one that starts it, which this blocks; Ctrl-C ends it
at once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muster._pool.progress import make as make_progress
from muster.errors import MusterError, NodesFailed, Unsupported
from muster.provider import programs_folder

if TYPE_CHECKING:
    from muster._link.session import Session
    from muster._pool.progress import Progress
    from muster.provider import Hosts

_FIRST_LOOK_SECONDS = 0.02
_LOOK_SECONDS = 0.25
_STEPS_TO_REACH = ("", "resolve", "connect", "host key", "login")

_logger = logging.getLogger("muster")

Row = Mapping[str, Any]


def await_nodes(status: Callable[[], Mapping[str, Any]], hosts: Hosts) -> None:
    """Returns when the hosts are up, or `hosts.at_least` of them and the others have failed.

    `status` asks the broker. Raises NodesFailed, and Unsupported when a node is not what the
    program wants.
    """
    progress: Progress | None = None
    if sys.stderr is not None and sys.stderr.isatty():
        progress = make_progress("nodes", hosts.count, "nodes")
    try:
        _Start(hosts, progress).wait(status)
    finally:
        if progress is not None:
            progress.close()


class _Start:
    def __init__(self, hosts: Hosts, progress: Progress | None) -> None:
        self._hosts = hosts
        self._progress = progress
        self._began = time.monotonic()
        self._reached: dict[str, float] = {}  # when the node was last seen to answer
        self._said: dict[str, tuple[str, str, str]] = {}
        self._up: dict[str, Row] = {}  # by node: its worker
        self._failures: dict[str, tuple[str, str]] = {}  # by node: step and what to do
        self._last_error: dict[str, tuple[str, str]] = {}

    def wait(self, status: Callable[[], Mapping[str, Any]]) -> None:
        pause = _FIRST_LOOK_SECONDS
        while True:
            seen = status()
            rows = seen["nodes"]
            workers = {worker["node"]: worker for worker in seen["workers"]}
            self._failures.clear()
            for row in rows:
                self._look(row, workers.get(row["name"]))
            if len(rows) >= self._hosts.count and len(self._up) + len(self._failures) >= len(rows):
                break
            time.sleep(pause)
            pause = min(2 * pause, _LOOK_SECONDS)
        self._judge()
        for name, worker in self._up.items():
            _check_machine(name, worker, self._hosts)

    def _look(self, row: Row, worker: Row | None) -> None:
        name = row["name"]
        self._say(row)
        if row["state"] == "up" and worker is not None:
            if name not in self._up and self._progress is not None:
                self._progress.advance(1)
            self._up[name] = worker
            return
        if self._up.pop(name, None) is not None and self._progress is not None:
            self._progress.advance(-1)
        if row["state"] in ("waiting", "failed"):
            self._last_error[name] = row["step"], row["detail"]
        now = time.monotonic()
        if row["state"] not in ("waiting", "connecting") or (
            row["state"] == "connecting" and row["step"] not in _STEPS_TO_REACH
        ):
            self._reached[name] = now
        if now - self._reached.get(name, self._began) > self._hosts.reach_seconds:
            nothing = f"no answer within {self._hosts.reach_seconds:g} s"
            self._failures[name] = self._last_error.get(name, (row["step"], nothing))
        elif row["state"] == "failed":
            self._failures[name] = row["step"], row["detail"]
        elif row["state"] == "up" and row["state_ms"] > 1000 * self._hosts.reach_seconds:
            self._failures[name] = "serve", "the tunnel is up, but no worker came through it"

    def _say(self, row: Row) -> None:
        now = row["state"], row["step"], row["detail"]
        before = self._said.get(row["name"])
        if now == before:
            return
        self._said[row["name"]] = now
        level = logging.INFO
        if before is not None and before[:2] == now[:2]:
            level = logging.DEBUG  # only how far the step is
        text = ": ".join(part for part in now if part)
        _logger.log(level, "node %s: %s", row["name"], text)

    def _judge(self) -> None:
        if not self._failures:
            return
        lines = [f"  {name}: {step}: {text}" for name, (step, text) in self._failures.items()]
        listed = "\n".join(sorted(lines))
        total = len(self._up) + len(self._failures)
        if len(self._up) < self._hosts.at_least:
            text = f"{len(self._failures)} of {total} nodes did not start:\n{listed}"
            if self._up:
                text += f"\nSSH(..., at_least={len(self._up)}) would start without them"
            raise NodesFailed(text, dict(self._failures))
        _logger.warning("the pool starts with %d of %d nodes:\n%s", len(self._up), total, listed)


def _check_machine(name: str, worker: Row, hosts: Hosts) -> None:
    for what, wanted, has, unit in (
        ("vcpus", hosts.cores, worker["cores"], "cores"),
        ("accelerator", hosts.gpus, worker["gpus"], "GPUs"),
        ("memory", hosts.memory_bytes, worker["memory_bytes"], "bytes of memory"),
    ):
        if has < wanted:
            raise Unsupported(
                f"{what}: node {name} has {has:,} {unit} and the pool asks for {wanted:,}; leave "
                "the node out of the hosts, or ask for less"
            )


def session_over(open_session: Callable[..., Session], hosts: Hosts) -> Session:
    """A session with a broker of its own, once that has reached the nodes by ssh."""
    session = open_session(workers=0, programs=programs_folder())
    try:
        try:
            session.up(hosts.text, hosts.origin)
        except MusterError:
            for text, path in hosts.sources:  # what is wrong with a file is said of its own lines
                session.up(text, path)
            raise
        await_nodes(session.status, hosts)
    except BaseException:
        session.close()
        raise
    return session
