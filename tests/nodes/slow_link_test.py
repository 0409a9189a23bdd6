"""A node behind a link with a round trip of 50 ms."""

from __future__ import annotations

from nodes.pool import Pool
from nodes.rig import Rig, wait_until

COUNT = 200


def test_results_come_in_order_over_a_slow_link_that_breaks() -> None:
    with Rig(1, delay_ms=50) as rig:
        node = rig.nodes[0]
        it = Pool(rig, slots=4)
        try:
            up = it.muster("up", str(it.file))
            assert "1 of 1 nodes up" in up.stdout, up.stderr
            numbers = [str(number) for number in range(COUNT)]
            command = "echo {} >> starts; sleep 0.02; echo {}"
            tasks = it.start(command, *numbers)
            starts = node.home / "starts"
            wait_until(lambda: starts.exists() and starts.stat().st_size > 40, "some have run")
            node.kill_sshd()
            node.start_sshd()
            assert tasks.communicate(timeout=120)[0].split() == numbers
            assert set(starts.read_text().split()) == set(numbers)
        finally:
            it.down()
