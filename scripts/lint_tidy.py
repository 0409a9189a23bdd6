#!/usr/bin/env python3
"""Runs clang-tidy on what changed (or with --all on everything), one file per processor at a time.

Changed is what differs from the merge base with origin/main (or main), on main itself what the
last commit changed, and what includes it. At most MAX_FILES then, the changed files themselves
first: the rest waits for `scripts/lint --all`. A file whose content, headers, compile command and
rules were found clean before is not looked at again (build/tidy-cache).
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True
import lint_rules  # noqa: E402

MAX_FILES = 30  # about four minutes on two processors
TIDY = "clang-tidy-14"
ROOT = pathlib.Path(__file__).resolve().parent.parent
DATABASE = ROOT / "build/release/compile_commands.json"
CACHE = ROOT / "build/tidy-cache"


def git(*arguments):
    done = subprocess.run(
        ["git", "-C", ROOT, *arguments], check=False, capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else ""


def changed_files():
    """Paths that differ from the base, or None when this clone does not tell."""
    head = git("rev-parse", "HEAD").strip()
    for main in ("origin/main", "main"):
        base = git("merge-base", "HEAD", main).strip()
        if base and base != head:
            break
    else:
        base = git("rev-parse", "--verify", "--quiet", "HEAD~1").strip()
    if not base:
        return None
    changed = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    return set(changed.splitlines())


def select(tree, compiled, all_files):
    """The files to look at, and how many were left out."""
    changed = None if all_files else changed_files()
    if all_files or (changed is not None and ".clang-tidy" in changed):
        changed = None
    if changed is None:
        chosen = sorted(compiled)
    else:
        touched = {path: tree.closure(path) & changed for path in compiled}
        chosen = [path for path in sorted(compiled) if touched[path]]
        chosen.sort(key=lambda path: path not in changed)
    limit = len(chosen) if all_files else MAX_FILES
    return chosen[:limit], len(chosen[limit:])


def cache_key(tree, path, command):
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    digest.update(command.encode())
    for file in sorted(tree.closure(path)):
        digest.update(f"{file}\0{tree.files[file]}\0".encode())
    return digest.hexdigest()


def tidy(path):
    return subprocess.run(
        [TIDY, "--quiet", "-p", DATABASE.parent, ROOT / path],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def main():
    tree = lint_rules.read_tree(ROOT)
    commands = {}
    database = DATABASE.read_text(encoding="utf-8") if DATABASE.exists() else "[]"
    for entry in json.loads(database):
        path = os.path.relpath(entry["file"], ROOT)
        if path in tree.files:
            commands[path] = entry["command"]
    chosen, left_out = select(tree, commands, "--all" in sys.argv[1:])
    CACHE.mkdir(parents=True, exist_ok=True)
    marks = {path: CACHE / cache_key(tree, path, commands[path]) for path in chosen}
    stale = [path for path in chosen if not marks[path].exists()]

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, result in zip(stale, pool.map(tidy, stale)):
            if result.returncode == 0:
                marks[path].touch()
            else:
                failed += 1
                print(f"clang-tidy: {path}\n{result.stdout}", file=sys.stderr)
    print(
        f"clang-tidy: {len(stale)} files, {failed} failed, {len(chosen) - len(stale)} cached"
        + (f", {left_out} left for --all" if left_out else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
