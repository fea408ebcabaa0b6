"""Read the project's Markdown pages as a reader does who pastes their commands one by one.

A page is read in the root of a clone of the project, which is the reader's alone. A fenced block
of `nix` whose first line names a file in a comment (`# hello.nix`) becomes that file; an image or
a function that returns one is evaluated; a block of `sh` is run. Right before a block that needs
what tests do not have stands a comment with the reason, `<!-- not run: needs a cluster -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nix import ROOT, run

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NOT_IN_AN_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int  # where it begins, from 1
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def file(self) -> str | None:
        """The name of the file that the block's first line says it is."""
        match = _FILE.match(self.text)
        return match[1] if match else None


@dataclass(frozen=True)
class Page:
    """A Markdown page of the project."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks, in their order."""
        return [
            Block(self.text.count("\n", 0, match.start("text")), *match.group(2, 3, 1))
            for match in _FENCE.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"```.*?```", "", self.text, flags=re.DOTALL)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading of this page has after its `#`, by the rule of common hosts."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {_NOT_IN_AN_ANCHOR.sub("", title).lower().replace(" ", "-") for title in headings}


def pages() -> list[Page]:
    """All Markdown pages that the project has."""
    names = run("git", "-C", ROOT, "ls-files", "*.md").stdout.splitlines()
    return [Page(ROOT / name) for name in names]
