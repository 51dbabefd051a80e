"""The command line as a user meets it: help, spelling, exit codes, one line for what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.folders import lineage_folder
from vivavoce import __version__, assets, cli, registry
from vivavoce.catalogue import CATALOGUE
from vivavoce.cli import ranges, screen
from vivavoce.cli.run import given
from vivavoce.cli.train import built, growing
from vivavoce.types import InputError


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def one_line(err: str) -> str:
    """The single line of an error message."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("vivavoce: ")
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option is explained, not merely listed."""
    code, out, err = call(capsys, verb, "--help")
    assert code == 0 and not err
    assert out.startswith(f"usage: vivavoce {verb}")
    kind = cli.VERBS[verb][0]
    assert " ".join((kind.__doc__ or "").split())[:40] in " ".join(out.split())
    plain = " ".join(out.split())
    assert "{None}" not in plain
    for field in kind.__dataclass_fields__.values():
        if field.type != "Source" and f"--{field.name.replace('_', '-')}" in plain:
            after = plain.split(f"--{field.name.replace('_', '-')}")[-1]
            assert not after.strip().startswith("(default"), f"{verb} --{field.name} has no help"


@pytest.mark.parametrize("name", ["egs_talker", "dit_motion", "live_portrait", "ad_nerf", "wav2lip", "face_warp"])
def test_help_of_a_method_shows_its_own_settings(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with what it means, as the verbs' options are; and what the presets make other."""
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = call(capsys, "train", name, "--help")
    assert code == 0 and not err
    card = registry.find(name)
    assert card.summary in " ".join(out.split())
    options, _, presets = out.partition("What --preset makes other:")
    for field in dataclasses.fields(card.config):
        option = f"--{field.name.replace('_', '-')} "
        assert option in options.replace(",", " "), field.name
        values = {str(getattr(registry.configure(name, preset), field.name)) for preset in ("", *card.cls.presets)}
        assert (option in presets) == (len(values) > 1), field.name


def test_help_of_a_method_with_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("egs_talker", "--preset", "tiny", "--help"), ("-h", "--preset=tiny", "egs_talker")):
        code, out, _ = call(capsys, "train", *words)
        assert code == 0 and "training steps (default: 24)" in out and "Gaussians at the start (default: 300)" in out
    code, _, err = call(capsys, "train", "egs_taker", "--help")
    assert code == 2 and "did you mean egs_talker?" in one_line(err)


def test_a_reader_that_has_read_enough_is_no_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`vivavoce train --help | head`: no report, and nothing that Python would tell of at its end."""

    def unread(options: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    turned: list[int] = []
    monkeypatch.setitem(cli.VERBS, "doctor", (cli.VERBS["doctor"][0], unread))
    monkeypatch.setattr(cli.os, "dup2", lambda old, new: turned.append(new))
    assert call(capsys, "doctor") == (141, "", "") and turned == [1]


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_overview_names_every_verb(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *words)
    assert code == (0 if words else 2)
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rum", "me.png"], "did you mean run?"),
        (["prepair", "me.mp4"], "did you mean prepare?"),
        (["Run", "me.png"], "did you mean run?"),
        (["--verison"], "did you mean --version?"),
        (["run", "me.png", "--audoi", "a.wav"], "did you mean --audio?"),
        (["run", "me.png", "--audio", "a.wav", "--rendrer=face_warp"], "did you mean --renderer?"),
        (["prepare", "me.mp4", "--foldr", "x"], "did you mean --folder?"),
        (["assets", "fetch", "--ofline"], "did you mean --offline?"),
        (["assets", "fetch", "face_landmarks"], "did you mean face_landmarker?"),
        (["list", "egs_taker"], "did you mean egs_talker?"),
        (["train", "egs_taker", "."], "did you mean egs_talker?"),
        (["train", "EGS_Talker", "."], "did you mean egs_talker?"),
        (["train", "egs_talker", ".", "--presett", "cpu"], "did you mean --preset?"),
        (["train", "egs_talker", ".", "--step", "5"], "did you mean --steps?"),
        (["train", "egs_talker", ".", "--preset", "huge"], "choose from: tiny"),
        (["eval", ".", "--splt", "val"], "did you mean --split?"),
    ],
)
def test_the_nearest_right_word(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *words)
    assert code == 2 and not out
    assert meant in one_line(err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "missing: SOURCE (picture, video,"),
        (["train"], "missing: METHOD (one of: vivavoce list)"),
        (["train", "face_warp", "."], "face_warp: is not trained: it has nothing to learn; use it: vivavoce run"),
        (["train", ".", "egs_talker"], ".: is a folder where METHOD is wanted; write: vivavoce train METHOD ."),
        (["prepare"], "missing: VIDEO"),
        (["train", "egs_talker"], "missing: FOLDER"),
        (["run", "me.png"], "give --audio FILE or --text WORDS"),
        (["run", "me.png", "--audio", "a.wav", "--text", "both"], "give --audio FILE or --text WORDS"),
        (["run", "me.png", "--audio", "a.wav", "--size", "large"], "--size"),
        (["run", "me.png", "--audio", "a.wav", "--eyes", "crossed"], "crossed"),
        (["eval", ".", "--split", "some"], "some"),
        (["assets", "steal"], "steal"),
        (["train", "egs_talker", ".", "--steps", "0"], "--steps 0: is too small"),
        (["train", "egs_talker", ".", "--batch", "-1"], "--batch -1: is too small"),
        (["train", "egs_talker", ".", "--size", "3"], "--size 3: is too small a number; give 32 to 4096, or 0"),
        (["train", "egs_talker", ".", "--size", "100000"], "--size 100000: is too large a number; give 32 to 4096, or 0"),
        (["train", "egs_talker", ".", "--size", "-1"], "--size -1: is too small"),
        (["train", "egs_talker", ".", "--seed", "-1"], "--seed -1: is too small"),
        (["train", "egs_talker", ".", "--planes", "8", "0"], "--planes 0: is too small"),
        (["train", "egs_talker", ".", "--points", "99999999"], "--points 99999999: is too large"),
        (["train", "egs_talker", ".", "--rate", "nan"], "--rate nan: is too small"),
        (["train", "egs_talker", ".", "--noise", "inf"], "--noise inf: is too large"),
        (["train", "egs_talker", ".", "--dropout", "1.5"], "--dropout 1.5: is too large a number; give 0 to 1"),
        (["train", "egs_talker", ".", "--average", "1"], "--average 1: is too large"),
        (["run", "me.png", "--audio", "a.wav", "--seed", "-1"], "--seed -1: is too small a number; give 0 to 2147483647"),
        (["prepare", "me.mp4", "--task", "0"], "--task 0: is too small a number; give 1 to 9"),
        (["eval", "run", "--size", "3"], "--size 3: is too small a number; give 32 to 8192"),
        (["export", "run", "--layout", "glb", "--texture", "0"], "--texture 0: is too small"),
        (["view", "run", "--size", "3"], "--size 3: is too small a number; give 64 to 8192, or 0"),
        (["train", "egs_talker", ".", "--log-every", "0"], "--log-every 0: is too small"),
        (["train", "egs_talker", ".", "--save-every", "nan"], "--save-every nan: is too small"),
        (["view", ".", "--port", "99999"], "--port 99999: is too large a number; give 1 to 65535"),
        (["doctor", "--deep"], "no such option"),
    ],
)
def test_what_is_missing_or_of_the_wrong_kind(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *words)
    assert code == 2 and not out
    assert told in one_line(err)


@pytest.mark.parametrize("name", registry.names())
def test_a_preset_is_never_out_of_range_and_the_least_numbers_build(name: str) -> None:
    """The ranges are guessed from names and presets: none may refuse a preset, or let through what ends in a fault of ours."""
    card = registry.find(name)
    presets = [registry.configure(name, preset) for preset in card.cls.presets]
    allowed = ranges.of_settings(card.config(), presets)
    for config in (card.config(), *presets):
        ranges.check(config, allowed)
    tiny = registry.configure(name, "tiny")
    for key, one in allowed.items():
        old = getattr(tiny, key)
        least = dataclasses.replace(tiny, **{key: (one.least,) * len(old) if isinstance(old, tuple) else one.least})
        with contextlib.suppress(InputError):
            built(card, least, tiny)


def test_settings_that_do_not_go_together_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    person = lineage_folder(tmp_path / "person", 32, 10)
    code, _, err = call(capsys, "train", "ad_nerf", str(person), "--preset", "tiny", "--layers", "1")
    assert code == 2 and "--layers 1: ad_nerf cannot be built so" in one_line(err) and "usual: layers " in err
    assert not (person / "runs").exists()


def test_too_little_memory_is_told_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(options: object) -> None:
        torch.empty(2**50)

    monkeypatch.setitem(cli.VERBS, "doctor", (cli.VERBS["doctor"][0], greedy))
    code, _, err = call(capsys, "doctor")
    assert code == 2 and "memory: there is too little of it" in one_line(err)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "a.png", "--size", "large"], "--size wants a whole number, not 'large'; see"),
        (["prepare", "a.mp4", "--size", "1.5"], "--size wants a whole number, not '1.5'; see"),
        (
            ["run", "a.png", "--eyes", "shut"],
            "--eyes cannot be shut; choose from: 'source', 'fixed', 'blink'; see",
        ),
        (["run", "a.png", "--audio"], "nothing is given for --audio; see"),
        (["run", "a.png", "b.png"], "too many words: b.png; see"),
        (["run", "-a.png"], "write ./-a.png"),
        (["run", "--a.png"], "write ./--a.png"),
    ],
)
def test_wrong_words_on_a_terminal_and_off_it(
    terminal: bool, words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No colours, no box, no words of Python's; a file whose name begins with a dash is told from an option."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("-a.png", "--a.png"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    code, _, err = call(capsys, *words)
    assert code == 2
    line = one_line(err)
    assert told in line and not set(line) & set("\x1b│─╭╰") and "---" not in line and "int()" not in line


def test_names_with_brackets_and_colons_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", "me [b] [/x] :x:.png", "--audio", "a.wav")
    assert code == 2 and "me [b] [/x] :x:.png: no such file" in one_line(err)
    table = screen.grid("name", "what to do")
    table.add_row("me [b]", "run: pip install 'vivavoce[serve]' :x:")
    screen.out.print(table)
    shown = capsys.readouterr().out
    assert "me [b]" in shown and "'vivavoce[serve]' :x:" in shown


@pytest.mark.parametrize(
    "words", [("run", "{}.png", "--audio", "a.wav"), ("prepare", "{}.mp4"), ("eval", "{}"), ("train", "egs_talker", "{}")]
)
def test_a_name_too_long_is_no_fault_of_ours(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *(word.format("z" * 300) for word in words))
    assert code == 2 and "name too long" in one_line(err)


def test_a_fault_of_ours_leaves_a_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def broken(options: object) -> None:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setitem(cli.VERBS, "doctor", (cli.VERBS["doctor"][0], broken))
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    code, _, err = call(capsys, "doctor")
    assert code == 1
    line = one_line(err)
    report = Path(line.rsplit("details: ", 1)[1])
    assert "deep inside" in line
    assert "Traceback" in report.read_text() and "in broken" in report.read_text()


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "doctor", (cli.VERBS["doctor"][0], stopped))
    code, _, err = call(capsys, "doctor")
    assert code == 130
    one_line(err)


def test_list_shows_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert all(name in out for name in registry.names())
    code, out, _ = call(capsys, "list", "--markdown")
    assert [line.split("`")[1] for line in out.splitlines()[2:]] == registry.names()
    assert len({line.count(" | ") for line in out.splitlines()}) == 1


@pytest.mark.parametrize("name", registry.names())
def test_list_of_one_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list", name)
    card = registry.find(name)
    assert code == 0
    assert card.summary in out
    assert all(preset in out for preset in card.cls.presets)


def test_assets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is there, one that is broken and one that is absent; what is not for commerce can be left out."""
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path))
    monkeypatch.setenv("VIVAVOCE_ASSETS", "")
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = call(capsys, "assets")
    assert code == 0 and all(name in out for name in CATALOGUE)
    (tmp_path / CATALOGUE["sample_portrait"].file).write_bytes(b"not a portrait")
    code, out, _ = call(capsys, "assets", "verify", "sample_portrait", "sample_speech")
    assert code == 1 and "broken" in out and "absent" in out
    code, out, err = call(capsys, "assets", "fetch", "sample_speech", "--offline")
    assert code == 2 and "the network is off" in one_line(err)
    code, out, _ = call(capsys, "assets", "licenses", "--commercial-only")
    shown = {line.split()[0] for line in out.splitlines() if line.split()} & set(CATALOGUE)
    assert code == 0 and shown == {a.name for a in CATALOGUE.values() if a.commercial}


def test_samples_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "path", lambda name: tmp_path / "cache" / name)
    assert given("sample_speech") == tmp_path / "cache" / "sample_speech"
    assert given("mine.wav") == Path("mine.wav")
    (tmp_path / "sample_speech").write_bytes(b"")  # a file of that name goes before the catalogue
    assert given("sample_speech") == Path("sample_speech")


def test_the_installed_command(tmp_path: Path) -> None:
    """The entry point itself, in a process of its own: exit codes reach the shell."""
    command = [sys.executable, "-c", "import sys; from vivavoce.cli import main; sys.exit(main())"]
    done = subprocess.run([*command, "run", "nothing.png", "--audio", "nothing.wav"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.png: no such file" in one_line(done.stderr)
    assert not list(tmp_path.iterdir())


def test_help_is_quick(tmp_path: Path) -> None:
    """Nothing heavy is imported to print help: no kernels, no video library, no nets."""
    heavy = "{'av', 'numba', 'scipy', 'ai_edge_litert'} & set(sys.modules)"
    code = f"import sys; from vivavoce.cli import main; main(['--help']); print(sorted({heavy})); sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-2:] == ["[]", __version__], done.stdout


@pytest.mark.parametrize(
    ("release", "told", "wanted"),
    [
        ("6.1.0", {}, "expandable_segments:True"),
        ("5.15-microsoft-standard-WSL2", {}, None),
        ("6.1.0", {"PYTORCH_CUDA_ALLOC_CONF": ""}, None),
    ],
)
def test_memory_of_a_gpu_is_taken_in_pieces_that_grow(
    release: str, told: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    growing()
    assert os.environ.get("PYTORCH_ALLOC_CONF") == wanted


@pytest.mark.gpu
def test_torch_heeds_it_when_training_asks_for_it() -> None:
    code = """if True:
        import torch
        from vivavoce.cli.train import growing
        growing()
        held = [torch.empty(n << 22, device="cuda") for n in (30, 50, 20)]
        held.clear()
        more = torch.empty(100 << 22, device="cuda")
        pieces = torch.cuda.memory_snapshot()
        print(len(pieces), all(piece["is_expandable"] for piece in pieces))"""
    words = {k: v for k, v in os.environ.items() if "ALLOC_CONF" not in k}
    told = subprocess.run([sys.executable, "-c", code], env=words, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "True"], told.stderr
