"""What nodes and tasks say in failures is shown on the client's terminal, and not obeyed by it."""

from __future__ import annotations

import os
import subprocess
import threading
import traceback

import pytest

from muster import ComputePool
from muster.errors import TaskCrashed, TaskError
from muster.provider import programs_folder

NASTY = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "overwriting": "failed\rfine \b",
    "C1": "\x9b31m\x85",
    "direction": "\u202efdp.exe\u2066",
    "delete": "a\x7f",
}
LEAVE = set("\n\t")


def is_harmless(text: str) -> bool:
    return not any(
        (ord(c) < 0x20 and c not in LEAVE) or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066"
        for c in text
    )


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def fail(text: str) -> None:
    raise Unpicklable(text)


def die(text: str) -> None:
    os.write(2, text.encode() + b"\n")
    os.abort()


@pytest.fixture(scope="module")
def pool() -> ComputePool:
    with ComputePool(output=False) as pool:
        yield pool


@pytest.mark.parametrize("name", NASTY)
def test_a_failures_text_and_traceback_are_harmless(pool: ComputePool, name: str) -> None:
    with pytest.raises(TaskError) as caught:
        pool.submit(fail, f"before {NASTY[name]} after").result(60)
    shown = "".join(traceback.format_exception(caught.value))
    assert is_harmless(shown) and is_harmless(str(caught.value))
    assert "before" in str(caught.value) and "after" in str(caught.value)
    assert "\\x" in str(caught.value) or "\\u" in str(caught.value)


def test_the_last_words_of_a_process_are_harmless(pool: ComputePool) -> None:
    with pytest.raises(TaskCrashed) as caught:
        pool.submit(die, "".join(NASTY.values())).result(60)
    assert is_harmless("".join(traceback.format_exception(caught.value)))


def test_what_muster_run_says_is_harmless_and_what_commands_print_is_theirs() -> None:
    program = os.path.join(programs_folder() or "", "muster")
    ended = subprocess.run(
        [program, "run", "-j1", "printf '\\033[32mgreen'; kill -SEGV $$; : {}"],
        input=b"\x1b]0;owned\x07\n",
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "MUSTER_BROKER": ""},
    )
    assert ended.stdout == b"\x1b[32mgreen"
    said = ended.stderr.decode()
    assert "muster: job 1" in said and "\\x1b]0;owned\\x07" in said
    assert is_harmless(said)
