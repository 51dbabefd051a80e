"""Names -> methods, lazily. The file name in `methods/` is the method's name; outside packages join through entry points."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from vivavoce.method import Generator, Method, Renderer
from vivavoce.types import InputError

GROUP = "vivavoce.methods"  # entry point group: name -> module that registers a method of that name


@dataclass(frozen=True)
class Card:
    """What `vivavoce list` and the docs table print of a method."""

    name: str
    cls: type[Method]
    family: str  # gaussian, radiance field, mesh, portrait, dubbing, motion
    paper: str
    origin: str  # the authors' code, read for facts
    license: str  # of the authors' code or weights
    summary: str  # first line of the module docstring

    @property
    def kind(self) -> str:
        """renderer, generator, or expert: a judge that the losses of others ask."""
        return "generator" if issubclass(self.cls, Generator) else "renderer" if issubclass(self.cls, Renderer) else "expert"

    @property
    def config(self) -> type[Any]:
        return importlib.import_module(self.cls.__module__).Config


_cards: dict[str, Card] = {}
_M = TypeVar("_M", bound=type[Method])


def register(*, family: str, paper: str, origin: str, license: str) -> Callable[[_M], _M]:
    """Class decorator. The method's name is its module's name."""

    def enter(cls: _M) -> _M:
        module = importlib.import_module(cls.__module__)
        name = cls.__module__.rsplit(".", 1)[-1]
        summary = (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""
        _cards[name] = Card(name, cls, family, paper, origin, license, summary)
        return cls

    return enter


@cache
def _modules() -> dict[str, str]:
    """Every method's name and module, read once: entry points are a walk through all that is installed. `cache_clear` forgets."""
    import vivavoce.methods as package

    own = {m.name: f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__)}
    return own | {e.name: e.value for e in entry_points(group=GROUP)}


def names() -> list[str]:
    """Every method's name, sorted; imports nothing heavy."""
    return sorted(_modules())


def find(name: str) -> Card:
    """The method of that name. Raises InputError with the nearest name when there is none."""
    modules = _modules()
    if name not in modules:
        near = difflib.get_close_matches(name.lower(), modules, 1)
        raise InputError(name, "no such method", f"did you mean {near[0]}?" if near else "see: vivavoce list")
    if name not in _cards:
        importlib.import_module(modules[name])
    return _cards[name]


def configure(name: str, preset: str = "", **changes: Any) -> Any:
    """A method's Config with a preset and changes applied. A misspelt key or preset is an InputError with the nearest right one."""
    card = find(name)
    presets = card.cls.presets
    if preset and preset not in presets:
        raise InputError(f"{name} --preset {preset}", "no such preset", f"choose from: {', '.join(presets)}")
    values = {**presets.get(preset, {}), **changes}
    known = [f.name for f in dataclasses.fields(card.config)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise InputError(f"{name}.{key}", "no such setting", f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
    return card.config(**values)


def create(name: str, preset: str = "", **changes: Any) -> Method:
    """A new method of that name."""
    return find(name).cls(configure(name, preset, **changes))
