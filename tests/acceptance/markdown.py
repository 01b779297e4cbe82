"""Reads our Markdown: code blocks, links, commands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced code block. line: where its first line of code stands."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A line that a reader types, and the lines of output that the page shows for it."""

    text: str
    output: list[str]


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in found]


def commands(block: Block) -> list[Command]:
    """Of a console block."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            found[-1].output.append(line)
    return found


def matches(shown: list[str], printed: str) -> bool:
    """Whether `printed` is what the page shows, where ``…`` stands for any lines."""
    pattern = "".join(r"(.*\n)*" if line == "…" else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, printed) is not None


def prose(text: str) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> Iterator[str]:
    """Targets of links and images."""
    for match in re.finditer(r"\]\(([^)\s]+)\)", prose(text)):
        yield match[1]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def typed(text: str, program: str) -> Iterator[str]:
    """Every command line of `program` on the page, in code blocks and in the text."""
    for block in blocks(text):
        if block.language in ("sh", "console"):
            for line in block.text.splitlines():
                command = line.removeprefix("$ ")
                if command.startswith(f"{program} "):
                    yield command.partition("#")[0]
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        if code.startswith(f"{program} "):
            yield code
