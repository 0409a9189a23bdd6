"""A call that is aborted while its outcomes arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from work import square

from muster import ComputePool, TaskCancelled
from muster._data.blobs import Blobs, Sharing
from muster.joblib._call import Call


class Racing(set[Any]):
    """The batches on their way; the outcomes of all arrive when somebody looks at them."""

    call: Call

    def _arrive(self) -> None:
        for future in set(super().__iter__()):
            self.call._on_outcome(future, None, ("task_lost", "lost", "it was lost", "", b""))

    def __len__(self) -> int:
        count = super().__len__()
        self._arrive()
        return count

    def __iter__(self) -> Iterator[Any]:
        found = list(super().__iter__())
        self._arrive()
        return iter(found)


@pytest.mark.parametrize("end", ["drop", "finish", "fail"])
def test_outcomes_that_arrive_while_a_call_ends(process_pool: ComputePool, end: str) -> None:
    session = process_pool.session
    call = Call(session, process_pool._context(), Blobs(session.space, Sharing()))
    call._pending = racing = Racing()
    racing.call = call
    futures = [call.submit([(square, (number,), {})], None) for number in range(3)]
    if end == "fail":
        call.fail(lambda: TaskCancelled("failed"))
    else:
        getattr(call, end)()
    assert all(future.done() for future in futures)
    call.drop()
