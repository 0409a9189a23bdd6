"""What tasks print, log and warn arrives here, with where it came from."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

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


def test_a_flood_is_bounded_and_counted() -> None:
    def flood(lines: int) -> None:
        for i in range(lines):
            print(i)

    lines: list[OutputLine] = []
    with ComputePool(worker=Worker(concurrency=1), output=lines.append) as pool:
        pool.submit(flood, 200_000).result(60)
    said = len(lines) + sum(line.dropped for line in lines)
    assert 0 < said <= 200_000


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
