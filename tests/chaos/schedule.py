"""What goes wrong when, drawn from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# How often a task may lose its worker while it runs is its crash budget (3): a schedule that goes
# beyond it would lose tasks rightly.
_MOST_LOSSES = 2
_LOSS_WINDOW_SECONDS = 15.0
_LONG_SHARE = 0.25  # of the stops: longer than the heartbeats bear


@dataclass(frozen=True)
class Fault:
    """`kind` happens to `target` `at` seconds after the loads began, and is mended `seconds` later:
    what was killed is started again, what was stopped goes on, a link carries everything again."""

    at: float
    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:6.2f} s: {self.kind} {self.target} for {self.seconds:g} s"


@dataclass(frozen=True)
class Kind:
    """A sort of fault: how often it comes, what it can happen to, how long it lasts."""

    name: str
    weight: int
    targets: Sequence[str]
    lasts: Sequence[float] = (0.0,)
    long: bool = False  # it may last longer than the heartbeats bear
    loses: bool = False  # running tasks may be lost with it, however short it is


class Schedule:
    """The faults of one seed, in order. Iterate to get them."""

    def __init__(
        self, rnd: random.Random, kinds: Sequence[Kind], seconds: float, patience: float
    ) -> None:
        """`patience`: how many seconds of silence the heartbeats bear."""
        self._random = rnd
        self._kinds = kinds
        self._beyond = round(1.3 * patience, 1)
        self._busy: dict[str, float] = {}
        self._losses: list[float] = []
        self.faults: list[Fault] = []
        at = rnd.uniform(0.5, 1.5)
        while at < seconds:
            self._draw(at)
            at += rnd.uniform(0.1, 2.0)

    def add(self, fault: Fault) -> None:
        """One that is not drawn."""
        self.faults.append(fault)
        self.faults.sort(key=lambda each: each.at)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def _draw(self, at: float) -> None:
        kind = self._random.choices(self._kinds, [each.weight for each in self._kinds])[0]
        target = self._random.choice(kind.targets)
        seconds = self._random.choice(kind.lasts)
        is_long = kind.long and self._random.random() < _LONG_SHARE
        if is_long:
            seconds = self._beyond
        loses = kind.loses or (is_long and target != "broker")
        recent = [loss for loss in self._losses if loss > at - _LOSS_WINDOW_SECONDS]
        if self._busy.get(target, 0.0) > at or (loses and len(recent) >= _MOST_LOSSES):
            return
        self._busy[target] = at + seconds + 1.0
        if loses:
            self._losses.append(at + seconds)
        self.faults.append(Fault(round(at, 2), kind.name, target, seconds))


@dataclass
class Effect:
    """What a fault really did, for the audit: times are those of `marks.now()`."""

    kind: str  # kill, stop, link
    part: str  # broker, worker, runner, producer, node
    begin: float
    end: float = float("inf")
    host: str = ""
    process: int = 0

    def meets(self, begin: float, end: float) -> bool:
        return self.begin <= end and self.end >= begin

    @property
    def seconds(self) -> float:
        return self.end - self.begin
