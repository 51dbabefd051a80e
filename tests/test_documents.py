"""Every command that the documents show is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vivavoce import registry
from vivavoce.cli import VERBS
from vivavoce.cli.words import parse
from vivavoce.types import InputError

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
STANDS_FOR = {"METHOD": "egs_talker", "N": "1"}  # words in capitals that must be something real


def commands(text: str) -> list[str]:
    """What follows `vivavoce` in code: whole lines of blocks, and inline code."""
    found = []
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    for line in "\n".join(blocks).splitlines():
        if match := re.match(r"(?:\$ )?(?:\.venv[/\\](?:bin|Scripts)[/\\])?vivavoce (.*)", line.strip()):
            found.append(re.split(r"\s{2,}|;|\s#\s", match[1])[0])
    inline = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += re.findall(r"`(?:docker run [^`]*?)?vivavoce ([a-z][^`]*)`", inline)
    return [c for c in found if re.match(r"[a-z]+(\s|$)", c)]


def understood(command: str) -> None:
    """Raises InputError when the command line would refuse the words; nothing is run."""
    text = re.sub(r"\[([^\]]*)\]", r"\1", command).replace("...", "").replace("\\|", "|")
    words = [STANDS_FOR.get(w, w) for w in shlex.split(text)]
    if "--any-setting" in words:
        words = words[: words.index("--any-setting")]
    verb, *rest = words
    assert verb in VERBS, f"no verb {verb}"
    kind = VERBS[verb][0]
    if verb != "train":
        parse(kind, rest, f"vivavoce {verb}")
        return
    options, settings = parse(kind, rest, "vivavoce train", more=True)
    card = registry.find(options.method)
    parse(card.config, settings, "vivavoce train", default=registry.configure(options.method, options.preset), beside=(kind,))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    wrong = []
    for command in commands(page.read_text("utf-8")):
        if re.search(r"(^|\s)(--help|VERB|NAME)(\s|$)", command) and "assets" not in command:
            continue  # help ends the program
        try:
            understood(command)
        except (InputError, AssertionError) as error:
            wrong.append(f"vivavoce {command}: {error}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_and_faults_in_them_too() -> None:
    page = "```\nvivavoce run me.png --audio a.wav    # speaks\n.venv/bin/vivavoce list\n```\nand `vivavoce eval RUN [--split val]`."
    assert commands(page) == ["run me.png --audio a.wav", "list", "eval RUN [--split val]"]
    for fault in ("sing me.png", "prepare me.mp4 --tasks 7", "train egs_talker me --stps 4", "train egs_singer me"):
        with pytest.raises((InputError, AssertionError)):
            understood(fault)
    assert sum(len(commands(page.read_text("utf-8"))) for page in PAGES) > 60
