"""Fifty nodes at once."""

from __future__ import annotations

from nodes.pool import WORKER, pool
from nodes.rig import wait_until

COUNT = 50


def test_fifty_nodes_come_work_and_go() -> None:
    with pool(COUNT, slots=1) as it:
        names = {node.name for node in it.rig.nodes}
        pids = {}
        for start in ("cold", "warm"):
            up = it.muster("up", "--wait", "60", str(it.file))
            assert f"{COUNT} of {COUNT} nodes up, {COUNT} slots" in up.stdout, up.stderr
            assert ("uploading the worker bundle" in up.stderr) == (start == "cold")
            pids[start] = it.workers()
            assert len(pids[start]) == COUNT
            # Each task stays until every node has one.
            everybody = it.rig.folder / f"{start}-tasks"
            everybody.mkdir()
            everybody.chmod(0o777)
            task = (
                f"uname -n; touch {everybody}/{{}}; until [ -e {everybody}/go ]; do sleep 0.1; done"
            )
            tasks = it.start(task, *map(str, range(COUNT)))
            wait_until(lambda there=everybody: len(list(there.iterdir())) == COUNT, "all run")
            (everybody / "go").touch()
            assert sorted(tasks.communicate(timeout=60)[0].split()) == sorted(names)
            it.down()
            assert it.broker() == 0
        assert not any(node.processes(WORKER) for node in it.rig.nodes)
