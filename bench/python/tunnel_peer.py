"""The two programs at the ends of a tunnel that is measured. Standard library only.

tunnel_peer.py listen PATH              here: serves a Unix socket until it is ended
tunnel_peer.py bulk PORT MIB            on the node: MB/s up, down and both at once
tunnel_peer.py round_trip PORT COUNT    on the node: the median round trip of 64 bytes
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import threading
import time

CHUNK = bytes(256 * 1024)
MESSAGE = bytes(64)
ORDER = struct.Struct("!cQ")  # what to do, how many bytes


def send_all(connection: socket.socket, count: int) -> None:
    while count > 0:
        part = CHUNK[: min(count, len(CHUNK))]
        connection.sendall(part)
        count -= len(part)


def receive_all(connection: socket.socket, count: int) -> None:
    buffer = memoryview(bytearray(len(CHUNK)))
    while count > 0:
        got = connection.recv_into(buffer[: min(count, len(CHUNK))])
        if got == 0:
            raise ConnectionError("the tunnel is gone")
        count -= got


def exchange(connection: socket.socket, sent: int, received: int) -> None:
    """Both at once, until both sides have everything."""
    sender = threading.Thread(target=send_all, args=(connection, sent))
    sender.start()
    receive_all(connection, received)
    sender.join()


def serve(connection: socket.socket) -> None:
    while header := connection.recv(ORDER.size, socket.MSG_WAITALL):
        kind, size = ORDER.unpack(header)
        if kind == b"e":
            for _ in range(size):
                receive_all(connection, len(MESSAGE))
                connection.sendall(MESSAGE)
            continue
        exchange(connection, size if kind in b"db" else 0, size if kind in b"ub" else 0)
        connection.sendall(b"k")  # all of it is here


def listen(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("localhost", port), timeout=300)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def say(figure: str, value: float) -> None:
    print(json.dumps({"figure": figure, "value": value}), flush=True)


def bulk(port: int, mib: int) -> None:
    size = mib << 20
    with connect(port) as connection:
        for kind, name, sent, received in (
            (b"u", "up", size, 0),
            (b"d", "down", 0, size),
            (b"b", "both", size, size),
        ):
            start = time.perf_counter()
            connection.sendall(ORDER.pack(kind, size))
            exchange(connection, sent, received)
            receive_all(connection, 1)
            seconds = time.perf_counter() - start
            say(name, (sent + received) / 1e6 / seconds)


def round_trip(port: int, count: int) -> None:
    with connect(port) as connection:
        connection.sendall(ORDER.pack(b"e", count))
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            connection.sendall(MESSAGE)
            receive_all(connection, len(MESSAGE))
            seconds.append(time.perf_counter() - start)
    say("round_trip", statistics.median(seconds) * 1e6)


if __name__ == "__main__":
    action, where, *rest = sys.argv[1:]
    if action == "listen":
        listen(where)
    elif action == "bulk":
        bulk(int(where), int(rest[0]))
    else:
        round_trip(int(where), int(rest[0]))
