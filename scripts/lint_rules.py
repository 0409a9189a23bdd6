#!/usr/bin/env python3
"""Rules of the source tree that no compiler knows: which way includes point, what pure files may
touch, that a type has a name of its own, and how large a file may grow; those of rooms, classes and
functions are in lint_rooms.py, those of pages in lint_prose.py. docs/design.md says why.
Prints `file:line: rule: what to do`.

    scripts/lint_rules.py              check the whole tree
    scripts/lint_rules.py --self-test  check these rules against small made-up trees
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import lint_prose
import lint_rooms

MAX_COLUMNS = 100
MAX_LINES = 500
WARN_LINES = 400

PEERS = ("broker", "worker", "producer")
PRODUCT = ("common", *PEERS)
FOLDERS = (*PRODUCT, "python", "tests", "bench", "examples")

# What the Python binding sees: public headers, pybind11, the standard library (no slash, no dot).
BINDING = "python/native/"
BINDING_HEADER = re.compile(r"muster/.*|pybind11/.*|[a-z_0-9]+")

PURE_ROOMS = (
    "common/protocol",
    "broker/books",
    "broker/placement",
    "broker/scheduling",
    "worker/agent",
    "producer/session",
)
IMPURE_HEADER = re.compile(
    r"zmq.*|libssh/.*|spdlog/.*|sys/.*|arpa/.*|net/.*|netinet/.*|linux/.*"
    r"|(unistd|fcntl|poll|pthread|signal|time|stdio|spawn|dirent|dlfcn)\.h|cstdio|csignal|ctime"
    r"|thread|mutex|shared_mutex|condition_variable|future|semaphore|latch|barrier|stop_token"
    r"|fstream|iostream|filesystem"
)
CODEC_HEADER = re.compile(r"msgpack.*|lz4.*")
IMPURE_CALL = re.compile(r"::now\(|\bgetenv\(|\brandom_device\b|\bsleep_(for|until)\(")

# What a header of ours defines in a namespace.
DEFINITION = re.compile(
    r"namespace (?P<namespace>[\w:]+) \{|(?:class|struct|enum class) (?P<type>\w+)\b(?!::)[^;(]*\{"
)

INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)[">]')
COMMENT_OR_STRING = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^(\s]*)\(.*?\)(?P=d)"'
    r'|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\'',
    re.DOTALL,
)


def blank_comments_and_strings(text):
    """The same text, line for line, in which only code is left."""
    return COMMENT_OR_STRING.sub(lambda match: "\n" * match.group().count("\n"), text)


def is_cpp(path):
    return path.endswith((".cpp", ".hpp"))


def is_checked(path):
    return (
        is_cpp(path)
        or path.endswith((".py", ".pyi", ".cmake", "CMakeLists.txt"))
        or path.startswith(("scripts/", ".ci/"))
    )


def is_public(path):
    return re.match(r"(common|worker|producer)/include/", path) is not None


def is_pure(path):
    return path.rpartition("/")[0] in PURE_ROOMS


class Tree:
    """The files of one repository (path -> text) and the complaints about them."""

    def __init__(self, files):
        self.files = files
        self.errors = []
        self.warnings = []
        self.includes = {
            path: [
                (number, *match.groups())
                for number, line in enumerate(text.splitlines(), 1)
                if (match := INCLUDE.match(line))
            ]
            for path, text in files.items()
            if is_cpp(path)
        }

    def check(self):
        for path in sorted(self.files):
            if not is_checked(path):
                continue
            self.check_size(path)
            if is_cpp(path) and path.split("/")[0] in FOLDERS:
                self.check_arrows(path)
            if is_cpp(path) and is_pure(path):
                self.check_purity(path)
        self.check_names()
        lint_rooms.check_rooms(self)
        lint_prose.check_prose(self)

    def error(self, path, line, rule, advice):
        self.errors.append(f"{path}:{line}: {rule}: {advice}")

    def check_size(self, path):
        lines = self.files[path].splitlines()
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_COLUMNS:
                self.error(path, number, "columns", f"break the line before column {MAX_COLUMNS}")
        if len(lines) > MAX_LINES:
            self.error(path, len(lines), "size", f"split the file: over {MAX_LINES} lines")
        elif len(lines) > WARN_LINES:
            self.warnings.append(f"{path}:{len(lines)}: size: over {WARN_LINES} lines: split soon")

    def check_names(self):
        """A program that links two types of one name may get either's constructor."""
        homes = {}
        for path in sorted(self.files):
            if not path.endswith(".hpp") or path.split("/")[0] not in PRODUCT or is_public(path):
                continue
            namespace = ""
            for number, line in enumerate(self.files[path].splitlines(), 1):
                match = DEFINITION.match(line)
                if match and match["namespace"]:
                    namespace = match["namespace"]
                elif match:
                    home = homes.setdefault((namespace, match["type"]), path)
                    if home != path:
                        self.error(
                            path,
                            number,
                            "one-name",
                            f"{home} defines {match['type']}, too: use that one, or choose "
                            "another name",
                        )

    def check_arrows(self, path):
        folder = path.split("/")[0]
        for number, bracket, header in self.includes[path]:
            if bracket == '"' and header.split("/")[0] not in FOLDERS:
                self.error(path, number, "include-root", f'write "{header}" from the root')
            elif bracket == '"' and is_public(path):
                self.error(
                    path,
                    number,
                    "public-header",
                    f'"{header}" is not installed: a public header may include <muster/...> only',
                )
            if path.startswith(BINDING) and not (
                BINDING_HEADER.fullmatch(header) if bracket == "<" else header.startswith(BINDING)
            ):
                self.error(
                    path,
                    number,
                    "binding",
                    f"the binding may not include {header}: public headers <muster/...>, pybind11, "
                    "the standard library and its own files only",
                )
            target = self.folder_of(bracket, header)
            if folder in PRODUCT and target in FOLDERS and target not in ("common", folder):
                self.error(
                    path,
                    number,
                    "arrow",
                    f"{folder} may include common and itself, not {target}: move what both need to "
                    "common",
                )

    def folder_of(self, bracket, header):
        resolved = self.resolve(bracket, header)
        if resolved:
            return resolved.split("/")[0]
        return header.split("/")[0] if bracket == '"' else None

    def resolve(self, bracket, header):
        """The path in this tree that an include names, or None."""
        if bracket == '"':
            return header if header in self.files else None
        candidates = (f"{folder}/include/{header}" for folder in PRODUCT)
        return next((path for path in candidates if path in self.files), None)

    def check_purity(self, path):
        is_codec = pathlib.PurePosixPath(path).stem.startswith("codec")
        for number, bracket, header in self.includes[path]:
            if bracket == "<" and CODEC_HEADER.fullmatch(header) and not is_codec:
                self.error(path, number, "pure", f"only the codec may include <{header}>")
            chain = self.chain_to_impure(bracket, header)
            if chain:
                self.error(
                    path,
                    number,
                    "pure",
                    f"{' -> '.join(chain)} brings I/O, threads or clocks in: pass the value as an "
                    "argument, act at the edge",
                )
        for number, line in enumerate(blank_comments_and_strings(self.files[path]).splitlines(), 1):
            if match := IMPURE_CALL.search(line):
                self.error(path, number, "pure", f"take `{match.group()}` as an argument")

    def chain_to_impure(self, bracket, header, seen=frozenset()):
        """The headers from this include to a forbidden one, or an empty list."""
        if bracket == "<" and IMPURE_HEADER.fullmatch(header):
            return [f"<{header}>"]
        path = self.resolve(bracket, header)
        if path is None or path in seen:
            return []
        for _, inner_bracket, inner in self.includes[path]:
            chain = self.chain_to_impure(inner_bracket, inner, seen | {path})
            if chain:
                return [path, *chain]
        return []

    def closure(self, path):
        """The file and every file of this tree that it includes, directly or not."""
        found, waiting = set(), [path]
        while waiting:
            current = waiting.pop()
            if current in found:
                continue
            found.add(current)
            for _, bracket, header in self.includes.get(current, ()):
                if target := self.resolve(bracket, header):
                    waiting.append(target)
        return found


def read_tree(root):
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    files = {}
    for path in listed:
        file = pathlib.Path(root, path)
        if path and (is_checked(path) or lint_prose.is_prose(path)) and file.is_file():
            files[path] = file.read_text(encoding="utf-8", errors="replace")
    return Tree(files)


# fmt: off
CASES = (
    # (what, files, expected complaint or None)
    ("a folder may include common and itself",
     {"common/protocol/ids.hpp": "",
      "broker/a.cpp": '#include "common/protocol/ids.hpp"\n#include "broker/b.hpp"\n'}, None),
    ("peers do not include each other",
     {"broker/a.cpp": '// why\n#include "worker/b.hpp"\n'}, "broker/a.cpp:2: arrow:"),
    ("common includes nothing to its right",
     {"common/a.hpp": '#include "producer/b.hpp"\n'}, "common/a.hpp:1: arrow:"),
    ("a public header belongs to its folder",
     {"worker/include/muster/task.hpp": "", "producer/a.cpp": "#include <muster/task.hpp>\n"},
     "producer/a.cpp:1: arrow:"),
    ("the shared public headers are for everyone",
     {"common/include/muster/bytes.hpp": "", "producer/a.cpp": "#include <muster/bytes.hpp>\n"},
     None),
    ("a public header includes installed files only",
     {"common/protocol/ids.hpp": "",
      "producer/include/muster/p.hpp": '#include "common/protocol/ids.hpp"\n'},
     "producer/include/muster/p.hpp:1: public-header:"),
    ("tests may include everything",
     {"tests/system/a_test.cpp": '#include "broker/a.hpp"\n#include "worker/b.hpp"\n'}, None),
    ("product code does not include tests",
     {"broker/a.cpp": '#include "tests/b.hpp"\n'}, "broker/a.cpp:1: arrow:"),
    ("the binding includes public headers, pybind11, the standard library and its own files",
     {"producer/include/muster/producer.hpp": "", "worker/include/muster/task.hpp": "",
      "python/native/a.hpp": "#include <cstdint>\n#include <pybind11/pybind11.h>\n",
      "python/native/a.cpp": '#include "python/native/a.hpp"\n'
                             "#include <muster/producer.hpp>\n#include <muster/task.hpp>\n"},
     None),
    ("the binding does not look behind the public headers",
     {"python/native/a.cpp": '#include <vector>\n#include "producer/session/session.hpp"\n'},
     "python/native/a.cpp:2: binding:"),
    ("nor at common",
     {"common/protocol/ids.hpp": "",
      "python/native/a.hpp": '#include "common/protocol/ids.hpp"\n'},
     "python/native/a.hpp:1: binding:"),
    ("the binding uses no other library",
     {"python/native/a.cpp": "#include <zmq.hpp>\n"}, "python/native/a.cpp:1: binding:"),
    ("nor the system itself",
     {"python/native/a.cpp": "#include <sys/socket.h>\n"}, "python/native/a.cpp:1: binding:"),
    ("product code does not include the binding",
     {"worker/a.cpp": '#include "python/native/b.hpp"\n'}, "worker/a.cpp:1: arrow:"),
    ("includes start at the root",
     {"broker/a.cpp": '#include "b.hpp"\n'}, "broker/a.cpp:1: include-root:"),
    ("a pure file has no thread",
     {"broker/scheduling/scheduler.cpp": "#include <vector>\n#include <thread>\n"},
     "broker/scheduling/scheduler.cpp:2: pure: <thread>"),
    ("all files of a pure room are pure",
     {"broker/scheduling/table.hpp": "#include <zmq.hpp>\n"},
     "broker/scheduling/table.hpp:1: pure:"),
    ("a pure file reaches no I/O through another header",
     {"common/log.hpp": "#include <spdlog/spdlog.h>\n",
      "worker/agent/agent.cpp": '#include "common/log.hpp"\n'},
     "worker/agent/agent.cpp:1: pure: common/log.hpp -> <spdlog/spdlog.h>"),
    ("headers that include each other are followed once",
     {"common/a.hpp": '#include "common/b.hpp"\n', "common/b.hpp": '#include "common/a.hpp"\n',
      "common/protocol/message.hpp": '#include "common/a.hpp"\n'},
     None),
    ("a pure file may use durations, and talk about clocks",
     {"producer/session/session.cpp":
      "#include <chrono>\n// not clock::now()\nauto s = \"::now()\";\n"}, None),
    ("a pure file reads no clock",
     {"producer/session/session.cpp": "\nauto t = std::chrono::steady_clock::now();\n"},
     "producer/session/session.cpp:2: pure:"),
    ("a digit separator starts no character",
     {"common/protocol/codec.cpp": "int a = 1'000; auto t = Clock::now(); int b = 2'000;\n"},
     "common/protocol/codec.cpp:1: pure:"),
    ("the codec packs",
     {"common/protocol/codec.cpp": "#include <lz4.h>\n#include <msgpack.hpp>\n"}, None),
    ("messages do not", {"common/protocol/message.hpp": "#include <msgpack.hpp>\n"},
     "common/protocol/message.hpp:1: pure:"),
    ("an edge does what it wants", {"broker/loop.cpp": "#include <thread>\n"}, None),
    ("a type has one header",
     {"broker/a.hpp": "namespace muster {\nclass A {\n", "worker/a.hpp":
      "namespace muster {\nclass A;\nstruct A final : B {\n"}, "worker/a.hpp:3: one-name:"),
    ("types of two namespaces may be called alike",
     {"broker/a.hpp": "namespace muster {\nclass A {\n",
      "producer/a.hpp": "namespace muster::detail {\nclass A {\n"}, None),
    ("100 columns fit", {"broker/a.cpp": "x" * 100 + "\n"}, None),
    ("101 do not", {"scripts/a": "\n" + "é" * 101 + "\n"}, "scripts/a:2: columns:"),
    ("500 lines fit", {"broker/a.cpp": "\n" * 500}, None),
    ("501 do not", {"broker/a.cpp": "\n" * 501}, "broker/a.cpp:501: size:"),
    ("nor do 501 of Python", {"tests/python/a.py": "\n" * 501}, "tests/python/a.py:501: size:"),
    ("prose has no limit", {"docs/a.md": "x" * 101}, None),
)
# fmt: on


def self_test():
    circle = lint_rooms.circle()
    failures = [f"lint_rooms.ARROWS: a circle: {circle}"] if circle else []
    cases = (*CASES, *lint_rooms.CASES, *lint_prose.CASES)
    for what, files, expected in cases:
        tree = Tree(files)
        tree.check()
        as_expected = (
            tree.errors == []
            if expected is None
            else len(tree.errors) == 1 and tree.errors[0].startswith(expected)
        )
        if not as_expected:
            failures.append(f"{what}: expected {expected}, got {tree.errors}")
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["git", "init", "-q", root], check=True)
        pathlib.Path(root, "broker").mkdir()
        pathlib.Path(root, "broker/a.cpp").write_text('#include "worker/b.hpp"\n', encoding="utf-8")
        tree = read_tree(root)
        tree.check()
        if len(tree.errors) != 1:
            failures.append(f"a file not yet committed is read: got {tree.errors}")
    print("\n".join(failures) or f"lint rules: {len(cases) + 1} cases as expected")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    tree = read_tree(pathlib.Path(__file__).resolve().parent.parent)
    tree.check()
    for line in tree.warnings:
        print(f"warning: {line}")
    for line in tree.errors:
        print(line, file=sys.stderr)
    return 1 if tree.errors else 0


if __name__ == "__main__":
    sys.exit(main())
