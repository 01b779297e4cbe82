"""What the pages say of commands, settings, states and files is so."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise

import click
import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.cli.exits import MEANINGS, Exit
from headrace.job import TERMINAL, TRANSITIONS, JobState
from headrace.settings import Settings
from tests.acceptance.markdown import PAGES, ROOT, anchors, blocks, links, typed
from workers.__main__ import main as workers_main

TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def typed_anywhere(program: str) -> Iterator[tuple[str, str]]:
    """(page, command line) of every command line of `program`."""
    for page, text in TEXTS.items():
        yield from ((page, line) for line in typed(text, program))


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(TEXTS[page]):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


def test_commands_and_their_options_exist() -> None:
    seen = 0
    for page, line in typed_anywhere("headrace"):
        check_command(main, shlex.split(line)[1:], f"{page}: {line}")
        seen += 1
    assert seen > 10


def check_command(command: click.Command, words: list[str], where: str) -> None:
    context = click.Context(command)
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
        found = command.get_command(context, words.pop(0))
        assert found is not None, where
        command = found
    if command.name == "worker":
        command = workers_main
    options = {name for parameter in command.params for name in parameter.opts}
    options |= {"--help", "-h", "--version"}
    given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert given <= options, where


def test_help_that_is_quoted_is_what_help_prints() -> None:
    for page, text in TEXTS.items():
        for block in blocks(text):
            if not block.text.startswith("Usage: headrace"):
                continue
            words = re.findall(r"[a-z-]+", block.text.splitlines()[0].partition("[")[0])[1:]
            printed = CliRunner().invoke(main, [*words, "--help"], prog_name="headrace").output
            assert block.text == printed, f"{page}, line {block.line}"


def test_every_command_and_exit_code_is_told() -> None:
    page = TEXTS["docs/cli.md"]
    told = re.findall(r"^\| `headrace (\w+)` \|", page, re.MULTILINE)
    assert sorted(told) == sorted(main.list_commands(click.Context(main)))
    codes = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert codes == [(str(code.value), meaning) for code, meaning in MEANINGS.items()]
    assert set(MEANINGS) == set(Exit)


def test_a_worker_is_told_how_it_is_called() -> None:
    program = "from headrace.cli import main; main()"
    command = [sys.executable, "-c", program, "worker", "--help"]
    help = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert help.startswith("Usage: headrace worker [OPTIONS]")


def test_make_targets_exist() -> None:
    help = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^  ([a-z-]+) ", help.stdout, re.MULTILINE)
    variables = re.findall(r"^  ([A-Z_]+)=", help.stdout, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    seen = 0
    for page, line in typed_anywhere("make"):
        for word in shlex.split(line)[1:]:
            name, assigned, _ = word.partition("=")
            known = name in variables or f"$({name})" in makefile if assigned else name in targets
            assert known, f"{page}: {line}"
            seen += 1
    assert seen > 8


def test_settings_exist() -> None:
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | {"HEADRACE_CONFIG"}
    # That page is written from the settings, and held to them by a test of its own.
    for page, text in TEXTS.items() - {("docs/settings.md", TEXTS["docs/settings.md"])}:
        named = set(re.findall(r"\bHEADRACE_(?!TEST_)[A-Z_]+[A-Z]\b", text))
        assert named <= known, page


def test_extras_exist() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    for page, text in TEXTS.items():
        for named in re.findall(r"headrace\[([\w,]+)\]", text):
            assert set(named.split(",")) <= set(extras), page


def test_the_state_diagram_is_that_of_job_py() -> None:
    (diagram,) = [b.text for b in blocks(TEXTS["ARCHITECTURE.md"]) if b.language == "mermaid"]
    arrows = set(re.findall(r"^ +(\S+) --> (\S+?)(?:: (\w+))?$", diagram, re.MULTILINE))
    assert len(arrows) == diagram.count("-->")
    legal = {
        (source.value, transition.target.value, step.value)
        for step, transition in TRANSITIONS.items()
        for source in transition.sources
    }
    ends = {(state.value, "[*]", "") for state in TERMINAL}
    assert arrows == legal | ends | {("[*]", JobState.QUEUED.value, "")}


def test_the_arrows_are_those_that_import_linter_holds() -> None:
    (text,) = [b.text for b in blocks(TEXTS["ARCHITECTURE.md"]) if "inside headrace" in b.text]
    outside, inside = text.split("inside headrace:")
    contracts = {c["name"]: c for c in PYPROJECT["tool"]["importlinter"]["contracts"]}
    layers = next(c["layers"] for n, c in contracts.items() if n.startswith("inside headrace"))
    assert [part.strip() for part in outside.split("──►")] == ["workers", "tasks", "headrace"]
    assert [part.strip() for part in inside.split("─►")] == layers


def test_the_folders_of_tests_are_told() -> None:
    told = set(re.findall(r"^\| `tests/(\w+)/` \|", TEXTS["CONTRIBUTING.md"], re.MULTILINE))
    there = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert told == there


def test_decisions_are_numbered_and_whole() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert all(after == before + 1 for before, after in pairwise([0, *numbers]))
    for page in pages:
        text = page.read_text("utf-8")
        assert re.fullmatch(r"\d{4}(-[a-z0-9]+)+\.md", page.name)
        assert text.startswith(f"# {page.name[:4]}: "), page.name
        parts = re.findall(r"^(?:## |\*\*)(Context|Decision|Consequences)", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences"], page.name


def test_the_changelog_has_the_form_it_says() -> None:
    heads = re.findall(r"^## (.+)$", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    kinds = re.findall(r"^### (.+)$", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_picture_is_readable_in_the_dark() -> None:
    picture = (ROOT / "docs" / "flow.svg").read_text("utf-8")
    assert "prefers-color-scheme: dark" in picture
    used = set(re.findall(r"var\((--\w+)\)", picture))
    light, dark = picture.split("@media")
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)
