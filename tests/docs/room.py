"""The room in which blocks of the pages run: a home and a working folder of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from pages import Block

import muster

ROOT = Path(__file__).resolve().parents[2]
BUILT = Path(muster.__file__).parents[2]
INTERPRETERS = {"sh": ["bash", "-e", "-o", "pipefail"], "python": [sys.executable]}
SECONDS = 240  # below the deadline of a test (pyproject.toml)


class Room:
    """A home folder and a working folder that are new, and the built programs first in PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("home", "run", "tmp", "work"):
            (root / name).mkdir(mode=0o700)
        self.environment = {
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "PATH": f"{BUILT / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": str(BUILT / "python"),
            "TMPDIR": str(root / "tmp"),
            "USER": os.environ.get("USER", "nobody"),
            "XDG_RUNTIME_DIR": str(root / "run"),
        }
        self.groups: list[int] = []

    def run_all(self, blocks: list[Block]) -> None:
        for block in blocks:
            if "file" in block.keys:
                path = self.root / "work" / block.keys["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, "utf-8")
        code = (block for block in blocks if block.language in INTERPRETERS)
        for _, script in itertools.groupby(code, key=lambda b: (b.language, b.keys.get("in"))):
            self.run(list(script))

    def run(self, blocks: list[Block]) -> None:
        """Runs the blocks as one script; fails with what it printed."""
        first = blocks[0]
        lines: list[str] = []
        for block in blocks:
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
        path = self.root / f"{Path(first.page).name}.{first.line}"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        with (self.root / "output").open("wb+") as output:
            process = subprocess.Popen(
                [*INTERPRETERS[first.language], str(path)],
                cwd=ROOT if first.keys.get("in") == "clone" else self.root / "work",
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.groups.append(process.pid)
            try:
                status: int | str = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = f"still running after {SECONDS} s"
            output.seek(0)
            printed = output.read().decode(errors="replace")
        assert status == 0, f"{first.page}:{first.line}: status {status}\n{printed}"
        check_promises(blocks, printed)

    def end(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


def check_promises(blocks: list[Block], printed: str) -> None:
    rest = " ".join(printed.split())
    for block in blocks:
        for text in block.promised:
            _, found, rest = rest.partition(" ".join(text.split()))
            assert found, f"{block.page}:{block.line}: does not print {text!r}:\n{printed}"
