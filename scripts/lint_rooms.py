"""Rules of the rooms, the folders of docs/design.md: which may include or import which, how many
files one holds, that a class has one source file, and how long a Python function may be.

A room may include the rooms that its line of ARROWS names, and those that stand on another side's
public face (scripts/lint_rules.py says which side may include which).
"""

import ast
import collections
import re

MAX_FILES = 26
MAX_FUNCTION_LINES = 70

# From each room to the others of its side that it may include. No circle.
ARROWS = {
    "common": "",
    "common/protocol": "common",
    "common/system": "common",
    "common/net": "common common/protocol common/system",
    "common/blobs": "common common/protocol common/system",
    "broker/stores": "",
    "broker/books": "",
    "broker/placement": "broker/books",
    "broker/scheduling": "broker/books broker/placement broker/stores",
    "broker/door": "broker/books",
    "broker/blobs": "broker/books broker/door broker/scheduling",
    "broker/hosts": "",
    "broker/ssh": "broker/hosts",
    "broker/nodes": "broker/door broker/hosts broker/scheduling broker/ssh",
    "broker": "broker/blobs broker/door broker/nodes broker/scheduling broker/stores",
    "worker/agent": "",
    "worker/system": "",
    "worker/blobs": "worker/agent worker/system",
    "worker/runner": "worker/agent worker/blobs worker/system",
    "worker/executors": "worker/agent worker/blobs worker/runner worker/system",
    "worker/attach": "worker/system",
    "worker": "worker/agent worker/attach worker/blobs worker/executors worker/runner"
    " worker/system",
    "producer/session": "",
    "producer/blobs": "producer/session",
    "producer/client": "producer/blobs producer/session",
    "producer/embedded": "producer/client producer/session",
    "producer/cli/terminal": "",
    "producer/cli/nodes": "producer/cli/terminal producer/client producer/embedded",
    "producer/cli/run": "producer/cli/nodes producer/cli/terminal producer/client",
    "producer/cli": "producer/cli/nodes producer/cli/run producer/cli/terminal producer/client",
    "producer": "producer/client producer/embedded producer/session",
}
ARROWS = {room: set(names.split()) for room, names in ARROWS.items()}
SIDES = ("common", "broker", "worker", "producer")

# The same of the Python package, whose public modules are rooms of their own. What is imported in a
# function or for its types alone counts, too. __init__ imports whatever its users ask for.
PACKAGE = "python/muster/"
PYTHON_ARROWS = {
    "_native": "",
    "_programs": "",
    "errors": "",
    "provider": "_native errors",
    "ssh": "errors provider",
    "_data": "_native errors",
    "_link": "_data _native errors",
    "_node": "_data _native errors",
    "_pool": "_data _link _native _node errors provider",
    "pool": "_data _link _native _node _pool errors provider",
    "joblib": "_data _link _native _node _pool errors pool provider",
    "plugins": "joblib",
    "runner": "_data _native _node errors",
}
PYTHON_ARROWS = {room: set(names.split()) for room, names in PYTHON_ARROWS.items()}

# A method that a source file defines outside of its class.
METHOD = re.compile(
    r"^(?:[\w:][\w:<>,&* \[\]]*[ &*])?(?P<scope>(?:[A-Z]\w*::)+)(?:~?\w+|operator\S+)\(",
    re.MULTILINE,
)
# Classes that have several source files still. Whoever takes one apart takes it off this list.
EXCEPTIONS = {
    "BlobFolder::State",
    "BlobKeeper",
    "Client",
    "RunnerLink",
    "RunnerLink::State",
    "ThreadExecutor::State",
}


def room_of(path):
    return path.rpartition("/")[0]


def is_in_room(path):
    return path.split("/")[0] in SIDES and "/include/" not in path


def check_rooms(tree):
    """Complains to `tree` (lint_rules.Tree) about what breaks these rules."""
    check_arrows(tree)
    check_imports(tree)
    check_sizes(tree)
    check_classes(tree)
    check_functions(tree)


def check_arrows(tree):
    for path in sorted(tree.includes):
        if not is_in_room(path):
            continue
        room = room_of(path)
        if room not in ARROWS:
            tree.error(path, 1, "room", f"{room} is not a room: name it in lint_rooms.ARROWS")
            continue
        for number, bracket, header in tree.includes[path]:
            target = room_of(header)
            if bracket == "<" or target == room or target.split("/")[0] != room.split("/")[0]:
                continue
            if target not in ARROWS[room]:
                tree.error(
                    path,
                    number,
                    "room",
                    f"{room} may not include {target}: move what both need to a room below both",
                )


def python_room_of(path):
    """ "_data" of python/muster/_data/arrays.py, "errors" of python/muster/errors.py."""
    return path.removeprefix(PACKAGE).partition("/")[0].partition(".")[0]


def parsed(text):
    """None: ruff says what is wrong with it."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def imports_of(tree):
    """(line, room) of what a module imports of the package, wherever in it that stands."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["muster."]  # no room: imports say the whole name
        elif isinstance(node, ast.ImportFrom) and node.module == "muster":
            names = [f"muster.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "muster":
                yield node.lineno, rest.partition(".")[0]


def check_imports(tree):
    for path, text in sorted(tree.files.items()):
        if not path.startswith(PACKAGE) or not path.endswith((".py", ".pyi")):
            continue
        room = python_room_of(path)
        module = parsed(text)
        if room == "__init__" or module is None:
            continue
        if room not in PYTHON_ARROWS:
            tree.error(path, 1, "room", f"{room} is not a room: name it in PYTHON_ARROWS")
            continue
        for number, target in imports_of(module):
            if target in PYTHON_ARROWS[room] or target == room:
                continue
            advice = f"{room} may not import {target}: move what both need to a room below both"
            if target not in PYTHON_ARROWS:
                advice = "import it from the module that defines it, by its whole name"
            tree.error(path, number, "room", advice)


def check_sizes(tree):
    counts = collections.Counter(room_of(path) for path in tree.includes if is_in_room(path))
    counts.update(room_of(path) for path in tree.files if path.startswith(PACKAGE))
    for room, count in sorted(counts.items()):
        if count > MAX_FILES:
            tree.error(
                room, 1, "room", f"{count} files, over {MAX_FILES}: find the second subject in it"
            )


def sources_of_classes(tree):
    """Of each (side, class): the source files that define its methods, and in which line first."""
    sources = collections.defaultdict(dict)
    for path in sorted(tree.includes):
        if not is_in_room(path) or not path.endswith(".cpp"):
            continue
        text = tree.files[path]
        for match in METHOD.finditer(text):
            name = match["scope"].removesuffix("::")
            line = text.count("\n", 0, match.start()) + 1
            sources[path.split("/")[0], name].setdefault(path, line)
    return sources


def check_classes(tree):
    """A class whose methods lie in two source files holds two subjects."""
    excused = set()
    for (_, name), lines in sources_of_classes(tree).items():
        home, *others = lines
        if others and name in EXCEPTIONS:
            excused.add(name)
            continue
        for path in others:
            tree.error(
                path,
                lines[path],
                "one-source",
                f"{home} defines {name}, too: give the second subject a class and a name",
            )
    for name in sorted(EXCEPTIONS - excused):
        tree.warnings.append(f"{name}: one-source: has one source: take it off EXCEPTIONS")


def is_python(path, text):
    return path.endswith(".py") or text.startswith("#!/usr/bin/env python3")


def python_functions(module):
    """(first line, name, number of lines) of each function in a parsed module."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, node.end_lineno - node.lineno + 1


def check_functions(tree):
    for path, text in sorted(tree.files.items()):
        module = parsed(text) if is_python(path, text) else None
        for number, name, lines in python_functions(module) if module is not None else ():
            if lines > MAX_FUNCTION_LINES:
                tree.error(
                    path,
                    number,
                    "function",
                    f"{name} has {lines} lines, over {MAX_FUNCTION_LINES}: split it",
                )


def circle():
    """Rooms whose arrows form a circle; empty: none."""
    left = {room: set(targets) for room, targets in (*ARROWS.items(), *PYTHON_ARROWS.items())}
    while ends := [room for room, targets in left.items() if not targets & left.keys()]:
        for room in ends:
            del left[room]
    return sorted(left)


# fmt: off
CASES = (
    # (what, files, expected complaint or None)
    ("a room may include those that its line names",
     {"worker/blobs/a.cpp": '#include "worker/system/b.hpp"\n'}, None),
    ("and no other",
     {"worker/system/a.cpp": '// why\n#include "worker/blobs/b.hpp"\n'},
     "worker/system/a.cpp:2: room:"),
    ("nor from a header",
     {"producer/session/a.hpp": '#include "producer/client/b.hpp"\n'},
     "producer/session/a.hpp:1: room:"),
    ("a folder without a line is no room",
     {"worker/other/a.cpp": ""}, "worker/other/a.cpp:1: room:"),
    ("a room holds few files",
     {f"broker/ssh/a{i}.cpp": "" for i in range(27)}, "broker/ssh:1: room:"),
    ("a Python room may import those that its line names",
     {"python/muster/_link/a.py": "from muster._data import b\nfrom muster import errors\n"}, None),
    ("and no other",
     {"python/muster/_data/a.py": "import os\nfrom muster._link.b import c\n"},
     "python/muster/_data/a.py:2: room:"),
    ("nor a module at the top",
     {"python/muster/_pool/a.py": "from muster import errors, pool\n"},
     "python/muster/_pool/a.py:1: room:"),
    ("nor for its types alone",
     {"python/muster/_node/a.py":
      "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from muster._link.b import C\n"},
     "python/muster/_node/a.py:3: room:"),
    ("nor in a function",
     {"python/muster/errors.py": "def f():\n    import muster._data.a\n"},
     "python/muster/errors.py:2: room:"),
    ("nor under a short name",
     {"python/muster/_data/a.py": "from ..errors import MusterError\n"},
     "python/muster/_data/a.py:1: room:"),
    ("nor what the package gives to its users",
     {"python/muster/_data/a.py": "from muster import ComputePool\n"},
     "python/muster/_data/a.py:1: room:"),
    ("a Python folder without a line is no room",
     {"python/muster/other/a.py": ""}, "python/muster/other/a.py:1: room:"),
    ("the package itself imports what its users ask for",
     {"python/muster/__init__.py": "from muster.pool import ComputePool\n"}, None),
    ("a Python room holds few files",
     {f"python/muster/_data/a{i}.py": "" for i in range(27)}, "python/muster/_data:1: room:"),
    ("a class has one source",
     {"broker/a.cpp": "void A::f() {}\n", "broker/b.cpp": "\nint A::g() const {}\n"},
     "broker/b.cpp:2: one-source:"),
    ("so has a class in a class",
     {"broker/a.cpp": "A::B::B() {}\n", "broker/b.cpp": "void A::B::g() {}\n"},
     "broker/b.cpp:1: one-source:"),
    ("two sides may have a class of one name",
     {"broker/a.cpp": "void A::f() {}\n", "worker/b.cpp": "void A::g() {}\n"}, None),
    ("calls define nothing",
     {"broker/a.cpp": "void A::f() {}\n", "broker/b.cpp": "void g() {\n  A::f();\n}\n"}, None),
    ("70 lines of a Python function fit",
     {"scripts/a.py": "\ndef f():\n" + "    pass\n" * 69}, None),
    ("71 do not",
     {"scripts/a.py": "\ndef f():\n" + "    pass\n" * 70}, "scripts/a.py:2: function:"),
    ("nor in a script", {"scripts/a":
     "#!/usr/bin/env python3\nclass A:\n  async def f():\n" + "    pass\n" * 70},
     "scripts/a:3: function:"),
)
# fmt: on
