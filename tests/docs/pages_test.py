"""What README.md and docs/*.md print to be typed works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomllib
from pages import Block, read_page, read_pages
from room import ROOT, Room, check_promises

PAGES = read_pages(ROOT)
SESSIONS = {name: blocks for page in PAGES for name, blocks in page.sessions().items()}
FOLDERS = "bench|broker|cmake|common|docs|examples|packaging|producer|python|scripts|tests|worker"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./*-]*)`")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize("name", SESSIONS)
def test_a_block_runs_as_printed(name: str, room: Room) -> None:
    room.run_all(SESSIONS[name])


def test_every_block_says_what_it_is() -> None:
    assert [mistake for page in PAGES for mistake in page.mistakes] == []
    assert len(SESSIONS) > 15


def test_settings_are_toml() -> None:
    for page in PAGES:
        for block in page.blocks:
            if block.language == "toml":
                tomllib.loads(block.padded)  # errors name the line


def test_files_that_pages_name_are_there() -> None:
    missing = [
        f"{page.name}: {path}"
        for page in PAGES
        for path in PATH.findall((ROOT / page.name).read_text("utf-8"))
        if not list(ROOT.glob(path.rstrip("/")))
    ]
    assert missing == []


def test_links_lead_somewhere() -> None:
    missing = []
    for page in PAGES:
        path = ROOT / page.name
        for file, anchor in LINK.findall(path.read_text("utf-8")):
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (anchor and anchor[1:] not in anchors(target)):
                missing.append(f"{page.name}: {file}{anchor}")
    assert missing == []


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


BLOCK = "```{}\ntrue\n```\n"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (BLOCK.format("sh"), None),
        (BLOCK.format('sh norun="needs two machines"'), None),
        (BLOCK.format("text"), None),
        ("- a list\n\n  goes on\n", None),
        (BLOCK.format(""), "choose a language"),
        (BLOCK.format("console"), "choose a language"),
        (BLOCK.format("sh norun"), "choose a language"),
        (BLOCK.format('sh norun=""'), "norun says in words why"),
        (BLOCK.format('sh norun="slow"'), "norun says in words why"),
        (BLOCK.format('sh skip="is too slow"'), "sh takes no skip"),
        (BLOCK.format("cpp"), "say the file and session"),
        (BLOCK.format('cpp file="a.cpp"'), "a file needs the session"),
        (BLOCK.format('cpp file="a.cpp" session="a"'), "nothing runs in this session"),
        (BLOCK.format('sh in="/tmp"'), "the only folder"),
        ("text\n\n    true\n", "an indented block"),
        ("  " + BLOCK.format("sh"), "in the first column"),
        ("```sh\ntrue\n", "does not end"),
    ],
)
def test_mistakes_of_blocks_are_found(text: str, mistake: str | None) -> None:
    mistakes = read_page("page.md", text).mistakes
    if mistake is None:
        assert mistakes == []
    else:
        assert any(mistake in found for found in mistakes)


def test_a_session_is_one_script_at_the_lines_of_its_page(room: Room) -> None:
    page = read_page(
        "page.md",
        '```sh session="a"\nx=1\n```\ntext\n```sh session="a"\necho $x $LINENO # prints 1 6\n```\n',
    )
    assert page.mistakes == []
    room.run_all(page.sessions()["page.md:a"])


@pytest.mark.parametrize("code", ["false | true", "echo 1 # prints 2", "import missing"])
def test_a_block_that_does_not_work_is_noticed(code: str, room: Room) -> None:
    language = "python" if code.startswith("import") else "sh"
    with pytest.raises(AssertionError, match="page.md:7"):
        room.run([Block("page.md", 7, language, {}, code)])


def test_promises_are_kept_in_their_order() -> None:
    block = Block("page.md", 1, "sh", {}, "echo # prints 1  2\necho # prints 3\n")
    check_promises([block], "0\n1 2\n3\n")
    with pytest.raises(AssertionError):
        check_promises([block], "3 1 2\n")
