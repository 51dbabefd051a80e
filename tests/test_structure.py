"""The shape of the package, read from its syntax trees: who may import whom, and how long things get.

Imports inside functions count as those at the top do: a circle that is hidden is still a circle.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vivavoce"

# A part (file or folder directly below vivavoce/) may import parts of lower levels and of its own; never of a higher one.
LEVELS = [
    {"__init__", "types"},
    {"protobuf", "heap", "turns", "files", "catalogue", "download", "assets", "media", "tts", "speech"}
    | {"face", "nn", "render", "diffusion", "losses"},
    {"method", "registry", "data", "how"},
    {"methods", "prepare", "metrics"},
    {"train", "talker", "run", "evaluate", "doctor", "viewer", "controls"},
    {"serve"},
    {"cli", "__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

# The registry lists the modules of the package `methods` and imports them by name: a table of contents, no dependency.
DISCOVERY = {("registry", "vivavoce.methods")}

FILE_LINES, METHOD_LINES, FUNCTION_LINES = 400, 300, 60
KERNEL_LINES = 100  # a kernel's loop holds dozens of values in registers: cut in two, each half would take them all as arguments
EMPTY_NAMES = {"utils", "util", "common", "core", "base", "helper", "helpers", "misc"}
NEVER = {"torchvision", "torchaudio", "cv2", "mediapipe", "librosa", "pytorch3d", "tinycudann", "nvdiffrast", "insightface"}
WHEN_USED = {"numba", "triton", "gsplat", "ai_edge_litert", "transformers", "piper", "gradio", "aiortc", "viser", "ray"}
WHEN_USED |= {"fastapi", "starlette", "uvicorn", "onnx", "onnxruntime", "onnxscript", "openpyxl", "tensorboard", "wandb"}


@dataclass(frozen=True)
class Module:
    path: Path
    name: str  # vivavoce.render.splats
    part: str  # render
    text: str
    tree: ast.Module

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        found.append(Module(path, name, parts[1], text, ast.parse(text, str(path))))
    return found


MODULES = modules()
NAMES = {m.name for m in MODULES}


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """(line, full name) of every module that this one imports, anywhere in it; `from package import module` counts as that module."""
    package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield node.lineno, full if full in NAMES else source


def own(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, full name, part) of the imports of our own."""
    for line, name in imported(module):
        if name.split(".")[0] == "vivavoce":
            yield line, name, name.split(".")[1] if "." in name else "__init__"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def compiled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Triton or numba compiles it."""
    return any("jit" in ast.unparse(d) for d in function.decorator_list)


def test_every_part_has_a_level() -> None:
    parts = {m.part for m in MODULES}
    assert not parts - LEVEL.keys(), f"say on which level {sorted(parts - LEVEL.keys())} stand: LEVELS in {Path(__file__).name}"


def test_imports_point_down() -> None:
    wrong = [
        f"{m.shown}:{line}: {m.part} (level {LEVEL[m.part]}) imports {name} (level {LEVEL[part]})"
        for m in MODULES
        for line, name, part in own(m)
        if LEVEL.get(part, 0) > LEVEL[m.part] and (m.part, name) not in DISCOVERY
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles_between_parts() -> None:
    edges = {m.part: set[str]() for m in MODULES}
    for m in MODULES:
        edges[m.part] |= {part for _, name, part in own(m) if part not in (m.part, "__init__") and (m.part, name) not in DISCOVERY}
    done: set[str] = set()

    def visit(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, f"circle: {' -> '.join([*path, part])}"
        if part not in done:
            for other in sorted(edges.get(part, ())):
                visit(other, (*path, part))
            done.add(part)

    for part in edges:
        visit(part, ())


def test_no_circles_between_files() -> None:
    """What imports nothing of the rest is taken away again and again; a circle remains."""
    left = {m.name: {name for _, name, _ in own(m) if name in NAMES and name != m.name} for m in MODULES}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    path = sorted(left)[:1]
    while left and path[-1] not in path[:-1]:
        path.append(min(left[path[-1]] & left.keys()))
    assert not left, f"circle: {' -> '.join(path[path.index(path[-1]) :])}"


def test_no_method_imports_another() -> None:
    wrong = [
        f"{m.shown}:{line}: {name}"
        for m in MODULES
        if m.part == "methods"
        for line, name, part in own(m)
        if part == "methods" and name != m.name
    ]
    assert not wrong, "a method must be readable alone; a part that two use goes to nn/ or render/:\n" + "\n".join(wrong)


def test_lengths() -> None:
    long = []
    for m in MODULES:
        limit = METHOD_LINES if m.part == "methods" else FILE_LINES
        if (lines := len(m.text.splitlines())) > limit:
            long.append(f"{m.shown}: {lines} lines, at most {limit}")
        for f in functions(m.tree):
            limit = KERNEL_LINES if compiled(f) else FUNCTION_LINES
            if (lines := (f.end_lineno or f.lineno) - f.lineno + 1) > limit:
                long.append(f"{m.shown}:{f.lineno}: {f.name} has {lines} lines, at most {limit}")
    assert not long, "\n".join(long)


def test_names_say_something() -> None:
    empty = [m.shown for m in MODULES if m.path.stem in EMPTY_NAMES or m.path.parent.name in EMPTY_NAMES]
    assert not empty, f"name these after what they do: {empty}"


def test_nothing_that_breaks_an_installation() -> None:
    files = [p for folder in ("vivavoce", "tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
    for path in files:
        text = path.read_text("utf-8")
        module = Module(path, "x.x", "x", text, ast.parse(text))
        for line, name in imported(module):
            assert name.split(".")[0] not in NEVER, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_every_signature_is_typed() -> None:
    bare = []
    for m in MODULES:
        for f in functions(m.tree):
            if compiled(f):  # from the types of its arguments: annotations would be ignored, and wrong for pointers
                continue
            every = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, *filter(None, (f.args.vararg, f.args.kwarg))]
            missing = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
            if f.returns is None:
                missing.append("return")
            if missing:
                bare.append(f"{m.shown}:{f.lineno}: {f.name}: {', '.join(missing)}")
    assert not bare, "\n".join(bare)


def test_inheritance_is_one_level_deep() -> None:
    """A class of ours may inherit from a contract (a class of ours that inherits from nothing of ours), not from a child of one."""
    bases: dict[str, set[str]] = {}
    for m in MODULES:
        for node in ast.walk(m.tree):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(ast.unparse(b).split(".")[-1].split("[")[0] for b in node.bases)
    contracts = {"Renderer", "Generator"}  # Method, what both share, lies below them
    deep = [
        f"{name} < {parent} < {', '.join(sorted(bases[parent] & bases.keys()))}"
        for name, parents in bases.items()
        for parent in parents
        if parent in bases and parent not in contracts and bases[parent] & bases.keys()
    ]
    assert not deep, "\n".join(deep)


def test_only_the_command_line_prints() -> None:
    loud = [
        f"{m.shown}:{node.lineno}"
        for m in MODULES
        if m.part not in ("cli", "__main__")
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not loud, f"log, or return the text: {loud}"


BLOCKED = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Block())
import vivavoce
from vivavoce import registry
import vivavoce.cli
for name in registry.names():
    registry.find(name)
kernels = ("render.splats", "render.backdrop", "render.warp", "render.mesh", "render.rays", "nn.grid")
backends = tuple("vivavoce." + part + "." for part in kernels)
for module in pkgutil.walk_packages(vivavoce.__path__, "vivavoce."):
    if not module.name.startswith(backends) and module.name != "vivavoce.__main__":
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize("blocked", [sorted(WHEN_USED), ["numba"]], ids=["all optional", "numba"])
def test_imports_without_what_is_optional(blocked: list[str]) -> None:
    """Every module but the kernels' back ends, and every method, imports on a machine that lacks these packages."""
    done = subprocess.run([sys.executable, "-c", BLOCKED.format(blocked=set(blocked))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_versions_are_pinned_without_addresses() -> None:
    """constraints.txt: exact, portable pins; no local builds, no places."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and not set(line) & set("+@/;") for line in lines), lines


def test_the_methods_table_is_of_this_registry() -> None:
    """docs/methods.md is what `vivavoce list --markdown` prints."""
    from vivavoce import registry

    rows = [line for line in (ROOT / "docs" / "methods.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == registry.names(), "run: vivavoce list --markdown, and put it into docs/methods.md"
    for row, card in zip(rows, map(registry.find, registry.names()), strict=True):
        assert all(part in row for part in (card.kind, card.family, card.summary, card.paper, card.license, *card.cls.presets)), row


def test_the_documents_name_what_there_is() -> None:
    """Links lead somewhere, and every verb has a page that every one of its options is at home on or in --help."""
    from vivavoce.cli import VERBS

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"
    for verb, (kind, _) in VERBS.items():
        text = (ROOT / "docs" / f"{verb}.md").read_text("utf-8")
        text = "\n".join(line for line in text.splitlines() if not line.startswith("torchrun "))  # its options are its own
        options = {f"--{prefix}{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) for prefix in ("", "no-")}
        options |= {"--help", "--any-setting"}
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert named <= options, f"docs/{verb}.md names {sorted(named - options)}"


def test_every_step_is_documented() -> None:
    from vivavoce.prepare import steps

    page = (ROOT / "docs" / "prepare.md").read_text("utf-8")
    for step in steps():
        assert f"| {step.task or ''} | `{step.name}` |".replace("|  |", "| |") in page, (
            f"docs/prepare.md says nothing of task {step.task}, {step.name}"
        )
