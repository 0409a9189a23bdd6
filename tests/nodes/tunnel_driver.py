"""A `remote_driver` process and Unix sockets for tunnels to end at, for tests and benches."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nodes.rig import PATIENCE_SECONDS, ROOT, USER, Node

Event = dict[str, Any]

# On the node: sends `count` bytes to `port`, expects them back, prints what came.
ROUND_TRIP = """python3 -c '
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
with socket.create_connection(("localhost", port), timeout=60) as connection:
    connection.sendall(b"x" * count)
    connection.shutdown(socket.SHUT_WR)
    total = 0
    while data := connection.recv(65536):
        total += len(data)
print(total)
' {port} {count}"""


class RemoteError(Exception):
    """What the driver reported: muster::NodeError."""

    def __init__(self, event: Event) -> None:
        super().__init__(f"{event['step']}: {event['text']}")
        self.lasting: bool = event["lasting"]
        self.step: str = event["step"]
        self.text: str = event["text"]


class Driver:
    """One muster::Remote in a process of its own; `fields` are those of its host."""

    def __init__(self, environment: Mapping[str, str], **fields: object) -> None:
        program = ROOT / "build" / "release" / "bin" / "remote_driver"
        self.process = subprocess.Popen(
            [str(program), json.dumps(fields)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )
        self.lines: queue.Queue[Event] = queue.Queue()
        self._results: queue.Queue[Event] = queue.Queue()
        self._statuses: queue.Queue[Event] = queue.Queue()
        self.log = ""
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        assert self.process.returncode == 0, self.log

    def _read(self) -> None:
        assert self.process.stdout is not None
        places = {"line": self.lines, "status": self._statuses}
        for line in self.process.stdout:
            event: Event = json.loads(line)
            places.get(event["event"], self._results).put(event)
        self._results.put({"event": "gone", "do": "everything"})
        self._statuses.put({"event": "gone"})

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def order(self, what: str, **fields: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
        self.process.stdin.flush()

    def result(self, what: str, seconds: float = PATIENCE_SECONDS) -> Event:
        """What became of the order `what`, the oldest without a result."""
        event = self._results.get(timeout=seconds)
        assert event["do"] == what, f"{event}\n{self.log}"
        if event["event"] == "error":
            raise RemoteError(event)
        return event

    def do(self, what: str, **fields: object) -> Event:
        self.order(what, **fields)
        return self.result(what)

    def fails(self, what: str, **fields: object) -> RemoteError:
        self.order(what, **fields)
        return self.fails_result(what)

    def fails_result(self, what: str) -> RemoteError:
        try:
            event = self.result(what)
        except RemoteError as error:
            return error
        raise AssertionError(f"{what} did not fail: {event}")

    def status(self) -> Event:
        self.order("status")
        return self._statuses.get(timeout=PATIENCE_SECONDS)

    def line(self) -> Event:
        """The next line of the held command."""
        return self.lines.get(timeout=PATIENCE_SECONDS)


class Listener:
    """A Unix socket; every connection is handled by `serve` in a thread."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], object]) -> None:
        self.path = path
        self._serve = serve
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1024)
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve(connection)

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def round_trip(node: Node, port: int, count: int) -> int:
    done = node.run(ROUND_TRIP.format(port=port, count=count), user=USER)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


Connect = Callable[..., Driver]
