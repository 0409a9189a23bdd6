"""The code blocks of README.md and docs/*.md, and what is to happen with each.

The line that opens a block (its info string) says it, after the language that GitHub colours:

    ```sh                          runs in a fresh folder, with a home folder of its own
    ```sh in="clone"               runs in the folder of this repository
    ```python session="sums"       runs in the folder of the earlier blocks of this page that name
                                   this session; neighbours of one language are one script
    ```cpp file="tasks.cpp" session="app"      becomes this file for the blocks of its session
    ```sh norun="needs two machines"           does not run, and says why
    ```text                        is output, or a form: nothing to run

A block of `toml` without a session is parsed. In what runs, `# prints TEXT` or
`# WORDS: prints TEXT` at the end of a line promises that TEXT appears in the output, after what
earlier lines promised.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

RUN = ("sh", "python")
KEYS = {
    "sh": {"norun", "session", "in"},
    "python": {"norun", "session"},
    "cpp": {"norun", "session", "file"},
    "cmake": {"norun", "session", "file"},
    "toml": {"norun", "session", "file"},
    "text": {"session", "file"},
}
INFO = re.compile(r'(?P<language>[\w+-]+)(?P<keys>(?: [a-z]+="[^"]*")*)')
KEY = re.compile(r'([a-z]+)="([^"]*)"')
PRINTS = re.compile(r"# (?:.*: )?prints (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line of code
    language: str
    keys: dict[str, str]
    text: str

    @property
    def promised(self) -> list[str]:
        return PRINTS.findall(self.text)

    @property
    def padded(self) -> str:
        """The code at the line numbers of its page, so that errors name them."""
        return "\n" * (self.line - 1) + self.text


@dataclasses.dataclass
class Page:
    name: str
    blocks: list[Block] = dataclasses.field(default_factory=list)
    mistakes: list[str] = dataclasses.field(default_factory=list)

    def sessions(self) -> dict[str, list[Block]]:
        """What runs: from `PAGE:LINE` or `PAGE:SESSION` to the blocks, in their order."""
        found: dict[str, list[Block]] = {}
        for block in self.blocks:
            if "session" in block.keys:
                found.setdefault(f"{self.name}:{block.keys['session']}", []).append(block)
            elif block.language in RUN and "norun" not in block.keys:
                found[f"{self.name}:{block.line}"] = [block]
        return found


def read_page(name: str, text: str) -> Page:
    page = Page(name)
    lines = text.splitlines()
    opened = None  # the number of the line that opened a block
    for number, line in enumerate(lines, 1):
        if opened is not None:
            if line == "```":
                code = "\n".join(lines[opened : number - 1]) + "\n"
                add_block(page, opened, lines[opened - 1][3:], code)
                opened = None
        elif line.lstrip().startswith(("```", "~~~")):
            if not line.startswith("```"):
                page.mistakes.append(f"{name}:{number}: open blocks with ``` in the first column")
            opened = number
        elif line.startswith("    ") and (number == 1 or not lines[number - 2].strip()):
            page.mistakes.append(f"{name}:{number}: an indented block says no language: use ```")
    if opened is not None:
        page.mistakes.append(f"{name}:{opened}: this block does not end")
    for session, blocks in page.sessions().items():
        if not any(block.language in RUN for block in blocks):
            page.mistakes.append(f"{session}: nothing runs in this session")
    return page


def add_block(page: Page, opened: int, info: str, text: str) -> None:
    match = INFO.fullmatch(info)
    language = match["language"] if match else ""
    keys = dict(KEY.findall(match["keys"])) if match else {}
    block = Block(page.name, opened + 1, language, keys, text)
    if mistake := mistake_of(block):
        page.mistakes.append(f"{page.name}:{opened}: ```{info}: {mistake}")
    else:
        page.blocks.append(block)


def mistake_of(block: Block) -> str | None:
    language, keys = block.language, block.keys
    if language not in KEYS:
        return f"choose a language ({', '.join(KEYS)}) and keys in the form of tests/docs/pages.py"
    if unknown := set(keys) - KEYS[language]:
        return f"{language} takes no {', '.join(sorted(unknown))}"
    if "norun" in keys and (len(keys) > 1 or len(keys["norun"].split()) < 2):
        return "norun says in words why, and stands alone"
    if "file" in keys and "session" not in keys:
        return "a file needs the session that uses it"
    if language in ("cpp", "cmake") and not keys:
        return "say the file and session that compile it, or norun"
    if keys.get("in", "clone") != "clone":
        return 'the only folder is in="clone"'
    return None


def read_pages(root: Path) -> list[Page]:
    paths = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [read_page(str(path.relative_to(root)), path.read_text("utf-8")) for path in paths]
