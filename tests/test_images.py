"""The Dockerfiles, read as Docker reads them: pinned, not root, and with the same pip commands as the README."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
INSTRUCTIONS = {"FROM", "ENV", "ARG", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its text with continued lines joined)."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def settings(parts: list[tuple[str, str]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for word, text in parts if word == "ENV" for pair in shlex.split(text))


@pytest.fixture(params=FILES, ids=lambda p: p.name)
def parts(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    found = instructions(request.param)
    assert {word for word, _ in found} <= INSTRUCTIONS
    return found


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [p.name for p in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


def test_the_base_is_pinned_and_has_our_python(parts: list[tuple[str, str]]) -> None:
    word, base = parts[0]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].strip(">=")
    assert word == "FROM" and re.fullmatch(rf"python:{re.escape(wanted)}\.\d+-slim-[a-z]+", base)


def test_what_is_copied_is_there_and_let_through(parts: list[tuple[str, str]]) -> None:
    through = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = [source for word, text in parts if word == "COPY" for source in text.split()[:-1]]
    assert {c.removeprefix("./") for c in copied} == through
    assert all((ROOT / c).exists() for c in copied)
    needed = ["pyproject.toml", "README.md", "LICENSE", "NOTICE", "vivavoce", "constraints.txt"]  # what the build backend reads
    assert {c.removeprefix("./") for c in copied} >= set(needed)


def test_pip_does_what_the_readme_says(parts: list[tuple[str, str]]) -> None:
    readme, pins = (ROOT / "README.md").read_text("utf-8"), (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    runs = [shlex.split(text) for word, text in parts if word == "RUN" and "pip" in text]
    assert [r[:2] for r in runs] == [["pip", "install"]] * 2
    torch = runs[0][-1]
    assert torch in pins and f"install -c constraints.txt {torch}" in readme  # torch first, at the tested version
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    match = re.fullmatch(r"\.\[([a-z0-9,]+)\]", runs[1][-1])
    assert match and set(match[1].split(",")) <= extras.keys() and "tts" not in match[1]
    where = settings(parts)["PIP_CONSTRAINT"]
    order = [text for word, text in parts if word in ("WORKDIR", "COPY", "RUN")]
    assert where == "/src/constraints.txt" and order.index("constraints.txt ./") < next(k for k, t in enumerate(order) if "torch" in t)


def test_it_runs_as_a_user_who_can_write_the_cache(parts: list[tuple[str, str]]) -> None:
    words = [word for word, _ in parts]
    (user,) = (text for word, text in parts if word == "USER")
    made = next(text for word, text in parts if word == "RUN" and "useradd" in text)
    assert user != "root" and made.split("&&")[0].split()[-1] == user and words.index("USER") < words.index("ENTRYPOINT")
    (volume,) = (text for word, text in parts if word == "VOLUME")
    assert settings(parts)["VIVAVOCE_CACHE"] == volume
    assert f"--owner={user}" in made and volume in made.split()
    assert words.index("RUN", words.index("USER") - 1) < words.index("VOLUME")  # a volume keeps what was set before it
    script = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert [text for word, text in parts if word == "ENTRYPOINT"] == [f'["{next(iter(script))}"]']


def test_shell_lines_are_shell(parts: list[tuple[str, str]]) -> None:
    for text in (text for word, text in parts if word == "RUN"):
        assert subprocess.run(["sh", "-n", "-c", text], capture_output=True).returncode == 0, text
        if "apt-get" in text:
            assert "--no-install-recommends" in text and "rm -rf /var/lib/apt/lists/*" in text


def test_the_page_builds_what_there_is() -> None:
    page = (ROOT / "docs" / "images.md").read_text("utf-8")
    assert set(re.findall(r"docker build -f (\S+)", page)) == {f"docker/{p.name}" for p in FILES}
    assert all(f"`{base}`" in page for base in {dict(instructions(p))["FROM"] for p in FILES})
