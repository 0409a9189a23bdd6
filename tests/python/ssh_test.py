"""What SSH makes of a program's words: one hosts file, or an error that names what is wrong."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import tomllib

import muster
from muster import SSH, ComputePool, Image, Local, NodesFailed, Worker
from muster._pool.bring_up import await_nodes
from muster.joblib import JoblibPool
from muster.provider import Hosts, Request

PYTHON = ".".join(platform.python_version_tuple()[:2])


def hosts_of(provider: SSH, **request: Any) -> list[dict[str, Any]]:
    plan = provider.plan(Request(**request))
    assert plan.hosts is not None
    found: list[dict[str, Any]] = tomllib.loads(plan.hosts.text)["host"]
    assert plan.hosts.count == len(found)
    return found


def test_short_hosts_get_this_python() -> None:
    assert hosts_of(SSH("node1", "ada@node2:2222*8")) == [
        {"address": "node1", "python": PYTHON},
        {"address": "ada@node2:2222*8", "python": PYTHON},
    ]


def test_keywords_hold_for_all_hosts_but_not_against_their_own_words() -> None:
    provider = SSH(
        "ada@node1:2222*8",
        "[::1]:23",
        hosts=["node2", {"address": "node3", "user": "eve", "slots": 2}],
        user="bob",
        port=22,
        slots=4,
        labels=["gpu"],
    )
    first, bracketed, second, third = hosts_of(provider)
    assert (first.get("user"), first.get("port"), first.get("slots")) == (None, None, None)
    assert bracketed == {
        "address": "[::1]:23", "user": "bob", "slots": 4, "labels": ["gpu"], "python": PYTHON
    }  # fmt: skip
    assert (second["user"], second["port"], second["slots"]) == ("bob", 22, 4)
    assert (third["user"], third["port"], third["slots"]) == ("eve", 22, 2)


def test_worker_and_image_come_before_the_file_s_defaults_and_after_its_hosts(
    tmp_path: Path,
) -> None:
    (tmp_path / "hosts.toml").write_text(
        """
        hosts = ["a"]
        [defaults]
        slots = 1
        executor = "process"
        pip = ["numpy"]
        identity = "keys/id"
        environment = { A = "file", B = "file" }
        [[host]]
        address = "b"
        slots = 9
        python = "/opt/python/bin/python3"
        environment = { B = "host" }
        """
    )
    image = Image(pip=["numpy", "scipy==1.0"], env={"A": "program", "C": 'qu"ote\n'})
    worker = Worker(concurrency=3, executor="thread")
    a, b = hosts_of(SSH(tmp_path / "hosts.toml"), image=image, worker=worker)

    assert (a["slots"], a["executor"], a["python"]) == (3, "thread", PYTHON)
    assert a["pip"] == ["numpy", "scipy==1.0"]
    assert a["identity"] == str(tmp_path / "keys" / "id")
    assert a["environment"] == {"A": "program", "B": "file", "C": 'qu"ote\n'}
    assert (b["slots"], b["executor"]) == (9, "thread")
    assert b["python"] == "/opt/python/bin/python3"
    assert b["environment"] == {"A": "program", "B": "host", "C": 'qu"ote\n'}


def test_what_the_broker_complains_about_reaches_it(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text('[[host]]\naddress = "a"\nidentiti = "x"\n')
    plan = SSH(str(file)).plan(Request())
    assert plan.hosts is not None
    assert tomllib.loads(plan.hosts.text)["host"][0]["identiti"] == "x"
    assert plan.hosts.sources == ((file.read_text(), str(file)),)


def test_nodes_are_the_first_ones() -> None:
    provider = SSH("a", "b", "c", at_least=1)
    assert [host["address"] for host in hosts_of(provider, nodes=2)] == ["a", "b"]
    with pytest.raises(muster.Unsupported, match="3 hosts are listed"):
        provider.plan(Request(nodes=4))
    with pytest.raises(muster.Unsupported, match="at_least=1: the pool has only 1|at_least=2"):
        SSH("a", "b", at_least=2).plan(Request(nodes=1))


def test_includes_and_wheels_are_files_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "alone.py").touch()
    (tmp_path / "wheels").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    includes = ["mine", "alone", tmp_path / "alone.py"]
    (host,) = hosts_of(SSH("a"), image=Image(includes=includes))
    assert host["includes"] == [str(tmp_path / name) for name in ("mine", "alone.py", "alone.py")]

    with pytest.raises(muster.Unsupported, match="no_such_module"):
        SSH("a").plan(Request(image=Image(includes=["no_such_module"])))
    with pytest.raises(muster.Unsupported, match="no folder with wheels"):
        SSH("a").plan(Request(image=Image(wheels=tmp_path / "wheels")))
    (tmp_path / "wheels" / "a-1-py3-none-any.whl").touch()
    (host,) = hosts_of(SSH("a"), image=Image(wheels=tmp_path / "wheels"))
    assert host["wheels"] == str(tmp_path / "wheels")

    Local().plan(Request(image=Image(includes=["mine", "alone"])))
    with pytest.raises(muster.Unsupported, match="no_such_module"):
        Local().plan(Request(image=Image(includes=["no_such_module"])))
    with pytest.raises(muster.Unsupported, match="wheels"):
        Local().plan(Request(image=Image(wheels=tmp_path / "wheels")))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"machine": "t4g.micro"}, "machine"),
        ({"allocation": "spot"}, "allocation"),
        ({"region": "eu"}, "region"),
        ({"ttl": 600}, "ttl"),
        ({"image": Image(python="3.4")}, "python"),
        ({"image": Image(apt=["git"])}, "apt"),
        ({"nodes": 2}, "nodes"),
    ],
)
def test_what_ssh_cannot_honour_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(muster.Unsupported, match=named):
        ComputePool(SSH("a"), **arguments)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (SSH, "needs hosts"),
        (lambda: SSH(3), "a host must be"),  # type: ignore[arg-type]
        (lambda: SSH(hosts="a"), "must be a list"),
        (lambda: SSH("a", identiti="x"), "did you mean 'identity'"),
        (lambda: SSH("a", at_least=0), "at_least"),
        (lambda: SSH("no/such.toml").plan(Request()), "no/such.toml"),
    ],
)
def test_wrong_arguments_are_named(make: Any, named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        make()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[host]]\naddress = = 1\n", "line 2"),
        ("", "names no host"),
        ("[defaults]\nslots = 1\n", "names no host"),
        ('[hots]\naddress = "a"', "hots"),
        ('host = "a"', "a hosts file has"),
    ],
)
def test_files_that_are_none(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        ComputePool(SSH(file))
    assert str(file) in str(caught.value)


def test_an_accelerator_is_a_gpu_of_each_task() -> None:
    pool = ComputePool(SSH("a"), accelerator="A100")
    assert (pool.task_options.gpus, pool.task_options.labels) == (1, ())
    hosts = SSH("a", hosts=[{"address": "b", "labels": ["A100"]}])
    labelled = ComputePool(hosts, accelerator="A100")
    assert (labelled.task_options.gpus, labelled.task_options.labels) == (1, ("A100",))


def test_a_joblib_pool_leaves_slots_to_the_hosts() -> None:
    pool = JoblibPool(SSH("a"))
    assert pool._plan is not None and pool._plan.hosts is not None
    (host,) = tomllib.loads(pool._plan.hosts.text)["host"]
    assert "slots" not in host and "executor" not in host
    assert "joblib" in host["pip"]


# --- Waiting for nodes ----------------------------------------------------------------------------


def row(name: str, state: str, step: str = "", detail: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "step": step,
        "detail": detail,
        "address": name,
        "state_ms": 0,
    }


def worker(name: str) -> dict[str, Any]:
    return {"node": name, "cores": 4, "gpus": 0, "memory_bytes": 2**30}


def hosts(count: int, at_least: int, **more: Any) -> Hosts:
    return Hosts("", "", (), count, at_least, **{"reach_seconds": 60.0, **more})


def test_the_start_waits_for_every_node_and_its_worker() -> None:
    answers = iter(
        [
            {"nodes": [row("a", "connecting")], "workers": []},
            {"nodes": [row("a", "up"), row("b", "preparing", "python")], "workers": []},
            {"nodes": [row("a", "up"), row("b", "up")], "workers": [worker("b")]},
            {"nodes": [row("a", "up"), row("b", "up")], "workers": [worker("a"), worker("b")]},
        ]
    )
    await_nodes(lambda: next(answers), hosts(2, 2))
    assert next(answers, None) is None


def test_failed_nodes_are_named_with_step_and_remedy(caplog: pytest.LogCaptureFixture) -> None:
    status = {
        "nodes": [
            row("a", "up"),
            row("b", "failed", "host key", "run ssh-keyscan"),
            row("c", "waiting", "connect", "refused; is sshd running?"),
        ],
        "workers": [worker("a")],
    }
    with pytest.raises(NodesFailed) as caught:
        await_nodes(lambda: status, hosts(3, 3, reach_seconds=0.01))
    text = str(caught.value)
    assert "2 of 3 nodes did not start" in text
    assert "b: host key: run ssh-keyscan" in text
    assert "c: connect: refused; is sshd running?" in text
    assert "at_least=1" in text
    assert caught.value.failures["b"] == ("host key", "run ssh-keyscan")

    await_nodes(lambda: status, hosts(3, 1, reach_seconds=0.01))
    assert "1 of 3 nodes" in caplog.text and "ssh-keyscan" in caplog.text


def test_a_node_that_is_not_what_was_asked_for_is_named() -> None:
    status = {"nodes": [row("a", "up")], "workers": [worker("a")]}
    with pytest.raises(muster.Unsupported, match="node a has 4 cores and the pool asks for 8"):
        await_nodes(lambda: status, hosts(1, 1, cores=8))
    with pytest.raises(muster.Unsupported, match="accelerator: node a has 0 GPUs"):
        await_nodes(lambda: status, hosts(1, 1, gpus=1))
