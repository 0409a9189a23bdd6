"""Rules of the rooms, the folders of docs/design.md: which may include which, and how many
files one holds.

A room may include the rooms that its line of ARROWS names, and those that stand on another side's
public face (scripts/lint_rules.py says which side may include which).
"""

import collections

MAX_FILES = 26

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


def room_of(path):
    return path.rpartition("/")[0]


def is_in_room(path):
    return path.split("/")[0] in SIDES and "/include/" not in path


def check_rooms(tree):
    """Complains to `tree` (lint_rules.Tree) about what breaks these rules."""
    check_arrows(tree)
    check_sizes(tree)


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


def check_sizes(tree):
    counts = collections.Counter(room_of(path) for path in tree.includes if is_in_room(path))
    for room, count in sorted(counts.items()):
        if count > MAX_FILES:
            tree.error(
                room, 1, "room", f"{count} files, over {MAX_FILES}: find the second subject in it"
            )


def circle():
    """Rooms whose arrows form a circle; empty: none."""
    left = {room: set(targets) for room, targets in ARROWS.items()}
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
)
# fmt: on
