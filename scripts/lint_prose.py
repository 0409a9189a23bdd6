"""Rules of what people read, README.md and docs/*.md: how much stands in one place, and words that
make a reader stop. docs/contributing.md says how to write.

Used by lint_rules.py, which has the tree.
"""

import re

MAX_CELL = 200
MAX_PARAGRAPH = 1000  # five lines of 200 columns

CELL_END = re.compile(r"(?<!\\)\|")
RULE = re.compile(r"(\|\s*:?-+:?\s*)+\|")  # below the heads of a table
ITEM = re.compile(r"\s*([-*]|\d+\.) ")
CODE = re.compile(r"`[^`]*`")
WORDS = (
    # (what to find outside of code, what to write instead)
    (
        re.compile(r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b)", re.IGNORECASE),
        "is not a",
    ),
    (re.compile(r"\b[Ww]hoever\b|(^|[.:;] )Who\b[^?]*[.;]"), "name the subject"),
    (re.compile(r"\bmend(s|ed)?\b", re.IGNORECASE), "repair, fix"),
)


def is_prose(path):
    return re.fullmatch(r"README\.md|docs/[^/]+\.md", path) is not None


def check_prose(tree):
    """Complains to `tree` (lint_rules.Tree) about what breaks these rules."""
    for path in filter(is_prose, sorted(tree.files)):
        for number, lines in paragraphs(tree.files[path]):
            check_words(tree, path, number, lines)
            if lines[0].startswith("|"):
                check_cells(tree, path, number, lines)
            elif (length := len(" ".join(lines))) > MAX_PARAGRAPH:
                advice = f"split it: {length} characters, at most {MAX_PARAGRAPH}"
                tree.error(path, number, "paragraph", advice)


def check_words(tree, path, number, lines):
    text = CODE.sub("code", " ".join(lines))
    for pattern, instead in WORDS:
        if match := pattern.search(text):
            tree.error(path, number, "words", f"{match.group()[:40].strip()!r}: write {instead!r}")


def check_cells(tree, path, number, lines):
    if len(lines) < 2 or not RULE.fullmatch(lines[1]):
        tree.error(path, number, "table", "begin it with a line of heads and one of |---|")
    for row, line in enumerate(lines, number):
        length = max(len(cell.strip()) for cell in CELL_END.split(line))
        if length > MAX_CELL:
            advice = f"say it below the table: {length} characters, at most {MAX_CELL}"
            tree.error(path, row, "cell", advice)


def paragraphs(text):
    """Paragraphs, items of lists and tables: the number of the first line, and the lines."""
    in_block, number, lines = False, 0, []
    for at, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.startswith("```")
        if fence or in_block or not line.strip() or ITEM.match(line):
            if lines:
                yield number, lines
            lines = []
        in_block ^= fence
        if not fence and not in_block and line.strip():
            number = number if lines else at
            lines.append(line.strip())


# fmt: off
CASES = (
    # (what, files, expected complaint or None)
    ("a cell of 200 characters fits", {"docs/a.md": f"| a | {'é' * 200} |\n|---|---|\n"}, None),
    ("one of 201 does not", {"docs/a.md": f"| a |\n|---|\n| {'x' * 201} |\n"},
     "docs/a.md:3: cell:"),
    ("an escaped bar ends no cell", {"README.md": f"| {'x' * 150}\\|{'x' * 100} |\n|---|\n"},
     "README.md:1: cell:"),
    ("a table without heads is shown as text", {"docs/a.md": "| a | b |\n| c | d |\n"},
     "docs/a.md:1: table:"),
    ("a paragraph of five lines fits", {"docs/a.md": "x" * 199 + ("\n" + "x" * 199) * 4}, None),
    ("one of more does not", {"docs/a.md": "\n" + "x" * 200 + ("\n" + "x" * 200) * 4},
     "docs/a.md:2: paragraph:"),
    ("however it is broken", {"docs/a.md": "xxxxxxxxx\n" * 101}, "docs/a.md:1: paragraph:"),
    ("items are paragraphs of their own",
     {"docs/a.md": f"- {'x' * 600}\n- {'x' * 600}\n  {'x' * 300}\n1. {'x' * 600}\n"}, None),
    ("an item may be too long", {"docs/a.md": f"- a\n- {'x' * 600}\n  {'x' * 600}\n"},
     "docs/a.md:2: paragraph:"),
    ("code is no prose", {"docs/a.md": f"```sh\n{'x' * 1001}\n```\n"}, None),
    ("but what follows it is", {"docs/a.md": f"```sh\nx\n```\n{'x' * 1001}\n"},
     "docs/a.md:4: paragraph:"),
    ("nothing is no thing", {"docs/a.md": "It is no file.\n"}, "docs/a.md:1: words:"),
    ("there may be none of it", {"docs/a.md": "There is no file; it is no longer there.\n"}, None),
    ("code may say what it likes", {"docs/a.md": "The text `is no file` says so.\n"}, None),
    ("who asks?", {"docs/a.md": "See. Who waits and who reads?\n"}, None),
    ("who does not", {"docs/a.md": "a.\n\nSo. Who waits reads.\n"}, "docs/a.md:3: words:"),
    ("a list may say who asks", {"docs/a.md": "`Books`: who keeps which blob. So.\n"}, None),
    ("nor does whoever", {"docs/a.md": "It goes to whoever waits.\n"}, "docs/a.md:1: words:"),
    ("repairs are not mended", {"docs/a.md": "It was mended.\n"}, "docs/a.md:1: words:"),
    ("other texts have no rule", {"tests/a.md": "x" * 1001}, None),
)
# fmt: on
