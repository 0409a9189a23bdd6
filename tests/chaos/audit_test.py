"""The chaos run's own rules: what a schedule may do, and what explains a second execution."""

from __future__ import annotations

import random
from pathlib import Path

from chaos.audit import Audit, held_problem
from chaos.marks import Execution, read_marks
from chaos.schedule import Effect, Kind, Schedule

_WORKERS = ["worker 0", "worker 1"]
_KINDS = [
    Kind("kill broker", 2, ["broker"], (0.0, 1.0)),
    Kind("stop broker", 2, ["broker"], (0.5,), long=True),
    Kind("kill worker", 3, _WORKERS, loses=True),
    Kind("stop worker", 3, _WORKERS, (0.5, 2.0), long=True),
]


def draw(seed: int) -> Schedule:
    return Schedule(random.Random(seed), _KINDS, seconds=60, patience=10)


def explains(effect: Effect, first: Execution, second_begin: float, *, nodes: bool = False) -> bool:
    audit = Audit([effect], 10, nodes=nodes)
    second = Execution(second_begin, "here", 2, 22)
    return not audit.check_executions("map", 1, {0: [first, second]})


def test_a_seed_says_all() -> None:
    assert draw(5).faults == draw(5).faults
    assert draw(5).faults != draw(6).faults


def test_no_task_can_lose_its_worker_too_often() -> None:
    for seed in range(200):
        losses = sorted(
            fault.at + fault.seconds
            for fault in draw(seed)
            if fault.kind == "kill worker" or (fault.kind == "stop worker" and fault.seconds > 10)
        )
        for third in zip(losses, losses[1:], losses[2:]):
            assert third[2] - third[0] > 14


def test_faults_of_one_target_do_not_overlap() -> None:
    for seed in range(200):
        end: dict[str, float] = {}
        for fault in draw(seed):
            assert fault.at >= end.get(fault.target, 0.0)
            end[fault.target] = fault.at + fault.seconds


def test_a_lost_worker_explains_what_it_ran() -> None:
    kill = Effect("kill", "worker", begin=10, end=10.1, process=1)
    assert explains(kill, Execution(9, "here", 1, 11), 11)
    assert not explains(kill, Execution(9, "here", 3, 11), 11), "another worker's"
    assert not explains(kill, Execution(11, "here", 1, 11), 12), "it came before"
    assert not explains(kill, Execution(5, "here", 1, 11, end=6), 8), "it came after"


def test_a_worker_that_was_away_starts_what_it_had() -> None:
    first = Execution(20, "here", 1, 11)
    assert explains(Effect("stop", "worker", 10, 23, process=2), first, 23.1)
    assert explains(Effect("stop", "worker", 5, 18, process=1), first, 23.1)
    assert not explains(Effect("stop", "worker", 10, 12, process=2), first, 23.1)
    assert not explains(Effect("stop", "worker", 5, 18, process=3), first, 23.1), "another one"


def test_only_a_long_stop_loses_work() -> None:
    first = Execution(9, "here", 1, 11)
    assert explains(Effect("stop", "worker", 10, 23, process=1), first, 24)
    assert not explains(Effect("stop", "worker", 10, 12, process=1), first, 24)
    assert not explains(Effect("stop", "producer", 10, 23), first, 24)
    assert not explains(Effect("stop", "broker", 10, 23), first, 24)
    assert not explains(Effect("stop", "runner", 10, 23, process=11), first, 24)


def test_a_killed_broker_explains_what_had_finished() -> None:
    kill = Effect("kill", "broker", 10, 11)
    assert explains(kill, Execution(8, "here", 1, 11, end=9), 12)
    assert not explains(kill, Execution(8, "here", 1, 11, end=15), 12), "it ran on"
    assert explains(kill, Execution(8, "here", 1, 11, end=15), 12, nodes=True)


def test_missing_executions_are_told() -> None:
    told = Audit([], 10, nodes=False).check_executions("map", 3, {0: [], 2: []})
    assert told == ["map: 1 tasks never ran, such as [1]"]


def test_marks_are_read_by_process(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    file.write_text("7 begin 1.5 here 1 11\n7 begin 2.5 there 1 11\n7 end 3.5 there 1 11\n")
    first, second = read_marks([file])[7]
    assert (first.begin, first.end, first.host) == (1.5, float("inf"), "here")
    assert (second.begin, second.end, second.host) == (2.5, 3.5, "there")


def test_what_is_held_is_told() -> None:
    status = {"jobs": [], "workers": [{"leases": 0}], "sessions": 1, "counters": []}
    assert held_problem(status) == ""
    assert "leases" in held_problem(status | {"workers": [{"leases": 2}]})
    assert "sessions" in held_problem(status | {"sessions": 2})
    assert held_problem(None)
