"""The table of benches in the order in which they run: a new one is a file and a line here."""

from __future__ import annotations

from bench.figures.blobs import BULK, GRID, RESULTS, SHARED_ARRAY
from bench.figures.echo import ECHO
from bench.figures.nodes import HEADLINE, UP, WAN
from bench.figures.noop import NOOP
from bench.figures.python import JOBLIB_NOOP, PYTHON_MAP, PYTHON_ROUND_TRIP, SLOTS, START
from bench.figures.round_trip import ROUND_TRIP
from bench.figures.run import RUN
from bench.figures.scheduler import QUEUE_DEPTH, WORKERS
from bench.figures.tunnel import TUNNEL

BENCHES = {
    bench.name: bench
    for bench in (
        *(NOOP, ROUND_TRIP, QUEUE_DEPTH, WORKERS, RUN, ECHO),
        *(JOBLIB_NOOP, PYTHON_MAP, PYTHON_ROUND_TRIP, SLOTS, START),
        *(TUNNEL,),
        *(HEADLINE, WAN, UP),
        *(SHARED_ARRAY, GRID, BULK, RESULTS),
    )
}
