"""Both ends of a tunnel under load: every byte that arrives is compared with what was sent.
Standard library only.

soak_peer.py listen PATH                              here: serves a Unix socket until it is ended
soak_peer.py load PORT SEED MIB BULK SMALL PARALLEL   on the node: BULK connections that carry MIB
    both ways at once beside SMALL short ones, PARALLEL at a time; prints how many were right
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
from collections.abc import Iterator

HEADER = struct.Struct("!QQQQ")  # seed, bytes up, bytes down, largest read
BLOCK = 64 * 1024
PATIENCE_SECONDS = 300


def blocks(seed: int, count: int) -> Iterator[bytes]:
    """`count` bytes that are different at every place and for every seed."""
    number = 0
    while count > 0:
        block = struct.pack("!QQ", seed, number) * (BLOCK // 16)
        yield block[:count]
        count -= min(count, BLOCK)
        number += 1


def send_all(connection: socket.socket, seed: int, count: int) -> None:
    for block in blocks(seed, count):
        connection.sendall(block)


def check_all(connection: socket.socket, seed: int, count: int, largest: int) -> None:
    place = 0
    for block in blocks(seed, count):
        got = b""
        while len(got) < len(block):
            part = connection.recv(min(largest, len(block) - len(got)))
            if not part:
                raise ConnectionError(f"ended after {place + len(got)} of {count} bytes")
            got += part
        if got != block:
            raise ValueError(f"wrong bytes after {place} of {count}")
        place += len(block)


def exchange(connection: socket.socket, sent: int, received: int, seed: int, largest: int) -> None:
    sender = threading.Thread(target=send_all, args=(connection, seed, sent))
    sender.start()
    check_all(connection, seed, received, largest)
    sender.join()


def serve(connection: socket.socket) -> None:
    with connection:
        header = connection.recv(HEADER.size, socket.MSG_WAITALL)
        if len(header) < HEADER.size:
            return
        seed, up, down, largest = HEADER.unpack(header)
        exchange(connection, down, up, seed, largest)
        connection.sendall(b"k")
        if connection.recv(1):
            raise ValueError("bytes after the end")


def listen(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1024)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


class Load:
    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.right = 0
        self.wrong: list[str] = []
        self.lock = threading.Lock()

    def connect_once(self, seed: int, up: int, down: int, largest: int) -> None:
        with socket.create_connection(("localhost", self.port), timeout=PATIENCE_SECONDS) as c:
            c.sendall(HEADER.pack(seed, up, down, largest))
            exchange(c, up, down, seed, largest)
            if c.recv(1) != b"k":
                raise ConnectionError("ended before its last byte")

    def work(self, orders: list[tuple[int, int, int, int]]) -> None:
        while True:
            with self.lock:
                if not orders:
                    return
                order = orders.pop()
            try:
                self.connect_once(*order)
                with self.lock:
                    self.right += 1
            except (OSError, ValueError) as error:
                with self.lock:
                    self.wrong.append(f"{order}: {error}")

    def run(self, size: int, bulk: int, small: int, parallel: int) -> None:
        choose = self.random
        large = [
            (choose.getrandbits(63), size, size, choose.choice([1000, 20_000, BLOCK]))
            for _ in range(bulk)
        ]
        short = [
            (choose.getrandbits(63), choose.randrange(40_000), choose.randrange(40_000), BLOCK)
            for _ in range(small)
        ]
        threads = [threading.Thread(target=self.work, args=(large,)) for _ in range(bulk)]
        threads += [threading.Thread(target=self.work, args=(short,)) for _ in range(parallel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(self.right)
        if self.wrong:
            sys.exit("\n".join(self.wrong[:5]))


if __name__ == "__main__":
    action, where, *rest = sys.argv[1:]
    if action == "listen":
        listen(where)
    else:
        seed, mib, bulk, small, parallel = map(int, rest)
        Load(int(where), seed).run(mib << 20, bulk, small, parallel)
