"""`pool.map`: a lazy iterator over results, with inputs pulled as there is room for them.

Tiny tasks travel in chunks. A chunk is one task of the pool; how many items it holds follows from
the seconds that chunks took on their workers, so that each takes about 10 ms, and tasks that take
that long themselves go one by one.
Threads: an iterator belongs to one thread at a time; inputs are pulled in that thread only.
"""

from __future__ import annotations

import itertools
import logging
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from muster import _native
from muster._data import failures, pickling
from muster._node import tasks
from muster._pool.progress import make as make_progress
from muster.errors import BrokerLost, MusterError, PoolNotActive, SerializationError

if TYPE_CHECKING:
    from muster._data.blobs import Blobs
    from muster._data.failures import Failure
    from muster._link.dispatch import Handler, Result
    from muster._link.session import Job, Session
    from muster._pool.progress import Progress

CHUNK_SECONDS = 0.01
MAX_CHUNK = 4096  # items: more would save nothing, and make the ends of a map uneven
MAX_CHUNK_BYTES = 1 << 20  # beyond it the bytes cost more than the message
GROWTH = 16  # at most, from one measurement to the next
WINDOW = _native.WINDOW_TASKS  # items between the oldest missing result and the newest input
WINDOW_BYTES = 256 << 20
CHUNKS_PER_SLOT = 2  # always under way, so that no slot runs dry between two looks
UNMEASURED_CHUNKS = 32  # more than those at the start, before anything is known of the tasks
COMPLAIN_SECONDS = 5.0

T = TypeVar("T")

_logger = logging.getLogger("muster")


class _Chunk:
    """Some consecutive items, from their push to their results."""

    __slots__ = ("count", "failure", "has_outcome", "items", "job", "payload_bytes", "result")

    def __init__(self, job: Job, count: int, payload_bytes: int, items: list[Any] | None) -> None:
        self.job = job
        self.count = count
        self.payload_bytes = payload_bytes
        self.items = items  # kept where they may have to run again
        self.has_outcome = False
        self.result: Result = None
        self.failure: Failure | None = None


class _Mailbox:
    """Where the dispatcher leaves outcomes for the thread that iterates. Knows nothing else, so
    that an abandoned iterator is collected."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.under_way = 0  # chunks that were pushed and have no outcome
        self.arrived: deque[_Chunk] = deque()
        self.awaited: _Chunk | None = None  # None: any will do

    def expect(self, count: int) -> None:
        """So many more outcomes."""
        with self.changed:
            self.under_way += count

    def deliver(self, chunk: _Chunk, result: Result, failure: Failure | None) -> None:
        with self.changed:
            self.under_way -= 1
            chunk.result, chunk.failure, chunk.has_outcome = result, failure, True
            self.arrived.append(chunk)
            if self.awaited is None or self.awaited is chunk:
                self.changed.notify()


class MapResults(Iterator[T]):
    """The results of a map. `close()`, or dropping it, cancels what has no result yet; so does any
    exception that comes out of it, after which it is at its end."""

    def __init__(
        self,
        session: Session,
        open_job: Callable[[Handler], Job],
        blobs: Blobs,
        iterables: tuple[Iterable[Any], ...],
        *,
        ordered: bool = True,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        single: bool = False,
        keep_items: bool = False,
        progress: str | None = None,
    ) -> None:
        """`single`: every item is a task of its own, a plain call, not a chunk of one;
        `keep_items`: the items of a chunk that takes too long as a whole run again one by one;
        `progress`: the label of what shows how far it is; None: nothing does."""
        self._over = True  # until there is a job to drop
        self._session = session
        self._mailbox = _Mailbox()
        self._starred = len(iterables) > 1
        self._inputs: Iterator[Any] = iter(zip(*iterables) if self._starred else iterables[0])
        self._left = min(operator.length_hint(iterable, -1) for iterable in iterables)
        self._ordered = ordered
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._single = single
        self._keep = keep_items
        self._adapts = chunksize is None and not single
        self._chunk = 1 if single else chunksize or 1
        self._window = buffersize
        self._item_seconds: float | None = None
        self._item_bytes = 1.0
        self._measured = False  # no result has said yet how much it is
        self._pending: deque[_Chunk] = deque()  # in submission order; empty if that is not asked
        self._completed: deque[_Chunk] = deque()  # the same in completion order, if that is asked
        self._pending_items = 0
        self._pending_bytes = 0
        self._exhausted = False
        self._raise_at_end: BaseException | None = None
        self._ready: Iterator[T] = iter(())
        self._blobs = blobs
        self._open_job = open_job
        self._job = open_job(self._mailbox.deliver)
        self._again: Job | None = None  # of items that run again: they come before the rest
        self._over = False
        self._progress: Progress | None = None
        try:
            if progress is not None:
                self._progress = make_progress(progress, self._left if self._left >= 0 else None)
            while self._wants_input() and self._mailbox.under_way < self._busy_chunks():
                self._push_next()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> MapResults[T]:
        return self

    def __next__(self) -> T:
        for item in self._ready:
            return item
        try:
            while True:
                self._ready = self._next_results()
                for item in self._ready:
                    return item
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels the rest. Does not block. Again: no effect."""
        if self._over:
            return
        self._over = True
        self._exhausted = True
        self._raise_at_end = None
        self._ready = iter(())
        self._job.drop()
        if self._again is not None:
            self._again.drop()
        self._blobs.close()
        self._pending.clear()
        self._completed.clear()
        self._pending_items = 0
        self._mailbox = _Mailbox()
        if self._progress is not None:
            self._progress.close()

    def __enter__(self) -> MapResults[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            self.close()

    # --- Results ---

    def _next_results(self) -> Iterator[T]:
        """The results of the next chunk; blocks. Raises StopIteration at the end."""
        complained = False
        while True:
            self._read_arrived()
            while self._wants_input() and (
                not self._next_is_here() or self._mailbox.under_way < self._busy_chunks()
            ):
                self._push_next()
                if self._mailbox.arrived:
                    self._read_arrived()
            if not self._pending_items:
                error, self._raise_at_end = self._raise_at_end, None
                if isinstance(error, StopIteration):  # raised as it is it would look like the end
                    raise RuntimeError("a task of map raised StopIteration") from error
                if error is None:
                    raise StopIteration
                raise error
            if self._next_is_here():
                return self._open(self._take())
            complained = self._wait(complained)

    def _next_is_here(self) -> bool:
        if self._ordered:
            return bool(self._pending) and self._pending[0].has_outcome
        return bool(self._completed)

    def _take(self) -> _Chunk:
        chunk = (self._pending if self._ordered else self._completed).popleft()
        self._pending_items -= chunk.count
        self._pending_bytes -= chunk.payload_bytes
        return chunk

    def _wait(self, complained: bool) -> bool:
        """Until something arrives that changes what can be done, or it is time to say why nothing
        does; returns whether that was said."""
        mailbox = self._mailbox
        measures = not self._measured
        anything = measures or not self._ordered or self._progress is not None
        with mailbox.changed:
            head = None if anything else self._pending[0]
            mailbox.awaited = head
            if mailbox.arrived if head is None else head.has_outcome:
                return complained
            wait = COMPLAIN_SECONDS
            if self._deadline is not None:
                wait = min(wait, self._deadline - time.monotonic())
                if wait <= 0:
                    raise TimeoutError("the next result of map did not arrive in time")
            if mailbox.changed.wait(wait) or complained:  # once is enough
                return complained
        if reason := self._job.waiting_reason():
            _logger.warning("map waits: %s", reason)
            return True
        return False

    def _read_arrived(self) -> None:
        """Learns from what came, in the order in which it did."""
        arrived = self._mailbox.arrived
        while arrived:
            chunk = arrived.popleft()
            if chunk.result is not None:
                seconds, value = tasks.split_result(chunk.result)
                size = len(value.body) + sum(blob.size for blob in value.blobs)
                self._learn(chunk, seconds, size)
                if self._progress is not None:
                    self._progress.advance(chunk.count)
            if not self._ordered:
                self._completed.append(chunk)

    def _open(self, chunk: _Chunk) -> Iterator[Any]:
        """The results in a chunk; what failed in it is raised after them."""
        if chunk.failure is not None:
            if chunk.failure[0] == "task_timed_out" and chunk.items and chunk.count > 1:
                self._run_one_by_one(chunk.items)
                return iter(())
            raise failures.rebuild(chunk.failure)
        assert chunk.result is not None
        size = tasks.counted_bytes(chunk.result)
        value = tasks.split_result(chunk.result)[1]
        chunk.result = None  # the pool may forget its blobs once they are mapped
        if self._single:
            results, failure = (pickling.unpack(value, "a result"),), None
        else:
            results, failure = pickling.unpack(value, "the results")
        chunk.job.consumed(size)
        if failure is not None:
            self.close()
            kind, message, text, extra = failure
            self._raise_at_end = failures.rebuild(("task_failed", kind, message, text, extra))
        return iter(results)

    # --- Inputs ---

    def _busy_chunks(self) -> int:
        """So many under way keep every slot busy."""
        return CHUNKS_PER_SLOT * max(1, self._session.total_slots())

    def _wants_input(self) -> bool:
        if self._exhausted:
            return False
        if self._window is not None and self._pending_items >= self._window:
            return False
        if not self._measured:
            return self._mailbox.under_way < self._busy_chunks() + UNMEASURED_CHUNKS
        busy = self._busy_chunks()
        if (len(self._pending) if self._ordered else self._mailbox.under_way) < busy:
            return True  # whatever they weigh
        if self._pending_items >= max(WINDOW, 2 * self._chunk * busy):
            return False
        return max(self._pending_bytes, self._pending_items * self._item_bytes) < WINDOW_BYTES

    def _push_next(self) -> None:
        """Pulls items for one chunk and sends it. What goes wrong is raised after the results of
        the items before."""
        size = self._chunk
        if self._window is not None:
            size = min(size, self._window - self._pending_items)
        items: list[Any] = []
        try:
            items.extend(itertools.islice(self._inputs, size))  # keeps what came before an error
        except Exception as error:
            self._end_input(error)
        if len(items) < size:
            self._end_input(None)
        if self._left > 0:
            self._left = max(0, self._left - len(items))
        if items:
            try:
                self._push(items)
            except (BrokerLost, PoolNotActive):
                raise
            except MusterError as error:
                self._push_before_error(items, error)

    def _push_before_error(self, items: list[Any], error: MusterError) -> None:
        """Some of `items` cannot be pickled, or take too much room together or alone."""
        try:
            for item in items if len(items) > 1 else ():
                self._push([item])
            if len(items) > 1 and not isinstance(error, SerializationError):
                self._chunk = 1  # together they were too large
                return
        except (BrokerLost, PoolNotActive):
            raise
        except MusterError as exact:
            error = exact
        self._raise_at_end = None  # this one comes before the end of the input
        self._end_input(error)

    def _end_input(self, error: BaseException | None) -> None:
        self._exhausted = True
        if self._raise_at_end is None:
            self._raise_at_end = error

    def _push(self, items: list[Any]) -> None:
        chunk = self._send(items, self._job)
        if self._ordered:
            self._pending.append(chunk)

    def _send(self, items: list[Any], job: Job) -> _Chunk:
        sent = self._blobs.sent_bytes
        if self._single:
            arguments = items[0] if self._starred else (items[0],)
            payload = pickling.pack((arguments, {}), "the arguments", self._blobs)
        else:
            payload = pickling.pack_items(items, "an item of map", self._blobs)
        size = len(payload.body) + self._blobs.sent_bytes - sent
        chunk = _Chunk(job, len(items), size, items if self._keep else None)
        mailbox = self._mailbox
        mailbox.expect(1)
        try:
            job.push(payload, chunk)
        except BaseException:
            mailbox.expect(-1)
            raise
        self._pending_items += chunk.count
        self._pending_bytes += chunk.payload_bytes
        return chunk

    def _run_one_by_one(self, items: list[Any]) -> None:
        """As a job of their own: the tasks of one job start in the order in which their results are
        taken, or those that nobody takes yet could leave no room for the one that is missing."""
        if self._again is None:
            self._again = self._open_job(self._mailbox.deliver)
        chunks = [self._send([item], self._again) for item in items]
        if self._ordered:
            self._pending.extendleft(reversed(chunks))
        self._chunk = 1
        self._item_seconds = CHUNK_SECONDS
        self._measured = True

    def _learn(self, chunk: _Chunk, seconds: float, result_bytes: int) -> None:
        """Adapts the size of chunks, and how far inputs may run ahead, to what one took."""
        size = max(chunk.payload_bytes, result_bytes) / chunk.count
        self._item_bytes = max(size, 0.9 * self._item_bytes, 1.0)
        self._measured = True
        if not self._adapts:
            return
        each = max(seconds / chunk.count, 1e-8)
        old = self._item_seconds
        self._item_seconds = each if old is None else 0.7 * old + 0.3 * each
        count = CHUNK_SECONDS / self._item_seconds
        count = min(count, MAX_CHUNK, chunk.count * GROWTH, MAX_CHUNK_BYTES / self._item_bytes)
        busy = self._busy_chunks()
        if self._left > 0:
            count = min(count, self._left / (2 * busy))  # an even end
        if self._window is not None:
            count = min(count, self._window / busy)
        self._chunk = max(1, int(count))
