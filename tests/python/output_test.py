"""What tasks print, log and warn arrives here, with where it came from."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
from pool_support import wait_until

import muster
from muster import ComputePool, OutputLine, Worker


def speak(word: str) -> str:
    print(f"out {word}")
    print(f"err {word}", file=sys.stderr)
    logging.getLogger("my.tasks").warning("log %s", word)
    warnings.warn(f"warn {word}", UserWarning, stacklevel=1)
    return word


def test_lines_are_printed_with_node_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    with ComputePool(worker=Worker(concurrency=1)) as pool:
        pool.submit(speak, "one").result(30)
        pool.submit(speak, "two").result(30)
    said = capsys.readouterr()

    out = [line.split("] ", 1) for line in said.out.splitlines()]
    assert [text for _, text in out] == ["out one", "out two"]
    assert [prefix.split("#")[1] for prefix, _ in out] == ["0", "1"]
    assert all(prefix.startswith("[") for prefix, _ in out)
    assert "err one" in said.err
    assert "warn two" in said.err


def test_log_records_take_the_way_of_this_program_s_own(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        ComputePool(worker=Worker(concurrency=1)) as pool,
    ):
        pool.submit(speak, "three").result(30)
    records = [record for record in caplog.records if record.name == "my.tasks"]

    assert len(records) == 1
    assert records[0].levelno == logging.WARNING
    assert records[0].getMessage().endswith("] log three")
    assert records[0].muster_task == 0  # type: ignore[attr-defined]
    assert records[0].muster_node  # type: ignore[attr-defined]


def test_a_callable_gets_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[OutputLine] = []
    with ComputePool(worker=Worker(concurrency=1), output=lines.append) as pool:
        pool.submit(speak, "four").result(30)

    assert {line.kind for line in lines} == {"output", "error", "log", "warning"}
    assert {line.text for line in lines if line.kind == "output"} == {"out four"}
    assert "four" not in capsys.readouterr().out


def test_output_can_stay_on_the_nodes(capfd: pytest.CaptureFixture[str]) -> None:
    with ComputePool(worker=Worker(concurrency=1), output=False) as pool:
        assert pool.submit(speak, "five").result(30) == "five"
    assert "] out five" not in capfd.readouterr().out


def flood(lines: int) -> None:
    for i in range(lines):
        print(i)


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_flood_is_bounded_and_counted(executor: str) -> None:
    lines: list[OutputLine] = []
    worker = Worker(concurrency=2, executor=executor)
    with ComputePool(worker=worker, output=lines.append) as pool:
        flooding = pool.submit(flood, 200_000)
        answered = 0
        while not flooding.done():  # nothing else waits for it
            assert pool.submit(abs, -1).result(60) == 1
            answered += 1
        flooding.result(60)
        assert answered > 0
        said = 200_000

        def all_are_accounted_for() -> bool:
            """What was dropped is told with the next line that is not."""
            nonlocal said
            pool.submit(print, "after the flood").result(60)
            said += 1
            return len(lines) + sum(line.dropped for line in lines) == said

        wait_until(all_are_accounted_for, 60)
    assert len(lines) < 100_000
    assert [line.text for line in lines[:3]] == ["0", "1", "2"]


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_everything_that_a_task_says_has_its_place(
    executor: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ComputePool(worker=Worker(concurrency=2, executor=executor)) as pool:
        node = pool.nodes()[0].name
        words = [f"word{number}" for number in range(6)]
        assert list(pool.map(speak, words, chunksize=1)) == words
    said = capsys.readouterr()

    for number, word in enumerate(words):
        prefix = f"[{node} #{number}] "
        assert f"{prefix}out {word}\n" in said.out
        assert f"{prefix}err {word}\n" in said.err
        assert f"{prefix}UserWarning: " in said.err
        assert f"warn {word}\n" in said.err
        assert f"{prefix}log {word}" in caplog.messages


def test_dropped_lines_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ""

    def is_told() -> bool:
        nonlocal shown
        pool.submit(print, "after the flood").result(60)
        shown += capsys.readouterr().err
        return "lines dropped" in shown

    with ComputePool(worker=Worker(concurrency=1)) as pool:
        pool.submit(flood, 50_000).result(60)
        wait_until(is_told, 60)


def test_a_sink_that_raises_harms_nothing() -> None:
    def broken(line: OutputLine) -> None:
        raise RuntimeError("broken sink")

    with ComputePool(worker=Worker(concurrency=1), output=broken) as pool:
        assert pool.submit(speak, "six").result(30) == "six"
    with pytest.raises(TypeError):
        ComputePool(output="yes")  # type: ignore[arg-type]


def test_lines_of_a_map_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    with muster.ComputePool(worker=Worker(concurrency=2)) as pool:
        list(pool.map(print, range(50)))
    shown = sorted(int(line.split("] ")[1]) for line in capsys.readouterr().out.splitlines())
    assert shown == list(range(50))
