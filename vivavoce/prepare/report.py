"""One page about the clip, `report.html`: what was made of it, whether it is fit, and what to do. Everything is inside the file.

Verdicts with what to do, strips of every artefact, a film of the tracked mesh over the frames, curves of pose, blinks, mouth and
loudness, the agreement of lips and sound over the lag, the seconds of each step, and the terms of the weights that were used.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivavoce import __version__
from vivavoce.catalogue import CATALOGUE
from vivavoce.data import features
from vivavoce.face import regions
from vivavoce.media import read_image
from vivavoce.prepare import Folder, Progress, Step, measures, sync
from vivavoce.prepare.report_curves import plot
from vivavoce.prepare.report_pictures import TILES, chosen_pieces, encoded, film, fitted, strip, strips, with_landmarks
from vivavoce.prepare.verdicts import EARLY, LATE, PASS, REFUSE, WARN, Check, Signals, Verdict, judged, signals, sound
from vivavoce.types import FPS, STEPS, InputError

CLOSE = 12.0  # s of the mouth shown larger
PLATE = 300  # px, height of the plate
UNITS = {"brow up (1)": "AU01_r", "smile (12)": "AU12_r", "lips part (25)": "AU25_r", "blink (45)": "AU45_r"}  # shown of au.csv
# What a choice of the user's brings with it, and what every folder uses: names of the catalogue.
WEIGHTS = {
    "whisper": ("whisper_tiny_en",), "wav2vec2": ("wav2vec2_base",), "hubert": ("hubert_large",), "xlsr": ("xlsr_53",),
    "esperanto": ("wav2vec2_esperanto",), "wav2vec2-960h": ("wav2vec2_960h",), "deepspeech": ("deepspeech_0_1",),
    "ict": ("ict_facekit",), "bfm": ("bfm_2009", "bfm_expressions", "bfm_topology", "bfm_keys"), "bisenet": ("face_parsing",),
}  # fmt: skip
ALWAYS = ("face_landmarker", "selfie_segmentation")

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:1.8em 0 .5em}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25em .6em;border-bottom:1px solid var(--line);vertical-align:top}
.pass{color:#059669}.warn{color:#b45309}.refuse{color:#dc2626}td.pass,td.warn,td.refuse,.head{font-weight:600}
figure{margin:.6em 0}figcaption{font-size:.85em;opacity:.85}img,video,svg{max-width:100%;display:block}
svg{width:100%;background:var(--soft)}
svg text{font:11px sans-serif;fill:currentColor}.grid{stroke:var(--line);fill:none}.mark{stroke:#dc2626;stroke-dasharray:3 3}
.out{fill:#8886}.curve{fill:none;stroke-width:1.2}.facts{opacity:.85}
"""


def late(folder: Folder) -> list[Verdict]:
    """Verdicts on what the long steps found."""
    clip, values = folder.clip, dict[str, float]()
    if "background" in clip:
        values |= {"plate": clip["background"]["seen"], "plate at rest": clip["background"]["steady"]}
    if "tracking" in clip:
        values["mesh on the face"] = clip["tracking"]["error"] / folder.size[0]
    if "body" in clip:
        values["body"] = clip["body"]["followed"] / folder.frames
    shown = {"mesh on the face": folder.size[0]}
    return [judged(_scaled(c, shown.get(c.name)), values[c.name]) for c in LATE if c.name in values]


def _scaled(check: Check, scale: float | None) -> Check:
    """The check with another scale of what is shown."""
    return check if scale is None else Check(**{**asdict(check), "scale": scale})


def headline(verdicts: list[Verdict]) -> tuple[str, str]:
    """The worst verdict, and one line about all."""
    bad = [v for v in verdicts if v.verdict == REFUSE]
    warned = [v for v in verdicts if v.verdict == WARN]
    if bad:
        return REFUSE, f"not fit, made with --force: {'; '.join(v.what for v in bad)}"
    if warned:
        return WARN, f"{len(verdicts) - len(warned)} checks passed, {len(warned)} to look at: {', '.join(v.name for v in warned)}"
    return PASS, f"all {len(verdicts)} checks passed"


def summary(folder: Folder) -> str:
    """One line about the clip, for the command line."""
    return headline([Verdict(**v) for v in folder.clip.get("checks", ())])[1]


def run(folder: Folder, progress: Progress) -> None:
    """Gather, draw, write."""
    early = [Verdict(**v) for v in folder.clip["checks"]]
    verdicts = early[: len(EARLY) + 1] + late(folder)
    folder.update(checks=[asdict(v) for v in verdicts])
    seen = signals(folder)
    rows = np.flatnonzero(folder.kept)
    frames = rows[np.linspace(0, len(rows) - 1, TILES).round().astype(int)].tolist()
    progress(1, 4)
    pictures = strips(folder, frames)
    progress(2, 4)
    pieces = chosen_pieces(folder, seen.turn)
    moving = film(folder, pieces)
    progress(3, 4)
    text = html(folder, verdicts, seen, pictures, moving, pieces)
    with folder.whole("report.html") as part:
        part.write_text(text, "utf-8")


def html(
    folder: Folder,
    verdicts: list[Verdict],
    seen: Signals,
    pictures: dict[str, str],
    moving: str,
    pieces: list[tuple[int, int]],
) -> str:
    """The page of a clip that was prepared."""
    worst, line = headline(verdicts)
    parts = ", ".join(f"{first / FPS:.1f} to {end / FPS:.1f} s" for first, end in pieces)
    plate = encoded(fitted(read_image(folder.file("bc.jpg")), PLATE))
    figures = [_figure(title, _image(data, title)) for title, data in pictures.items()]
    return page(
        folder,
        worst,
        line,
        [
            "<h2>Verdicts</h2>",
            table(verdicts),
            "<h2>What was made</h2>",
            *figures,
            _figure("background plate: what no frame shows goes on softly from what is around it", _image(plate, "background plate")),
            "<h2>Tracking</h2>",
            _figure(f"the mesh over the frames, {parts}", f'<video src="{moving}" controls loop playsinline></video>'),
            "<h2>Curves</h2>",
            *curves(folder, seen),
            "<h2>Steps</h2>",
            steps_table(folder),
            "<h2>Weights used, and their terms</h2>",
            weights_table(folder),
        ],
    )


def page(folder: Folder, worst: str, line: str, parts: list[str]) -> str:
    """Head and parts of a page."""
    name = escape(str(folder.clip["id"]))
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style></head><body>'
    title = f'<h1>{name}</h1><p class="head {worst}">{escape(line)}</p><p class="facts">{facts(folder)}</p>'
    return "\n".join([head, title, *parts, "</body></html>"])


def refusal(folder: Folder, verdicts: list[Verdict], seen: Signals) -> str:
    """The page of a clip that was refused: verdicts, frames, curves; nothing else was made."""
    rows = np.flatnonzero(folder.kept)
    frames = rows[np.linspace(0, len(rows) - 1, TILES).round().astype(int)].tolist()
    line = f"refused: {'; '.join(v.what for v in verdicts if v.verdict == REFUSE)}"
    picture = encoded(strip(with_landmarks(folder, k) for k in frames))
    shown = _figure("frames and landmarks", _image(picture, "frames and landmarks"))
    return page(folder, REFUSE, line, ["<h2>Verdicts</h2>", table(verdicts), shown, "<h2>Curves</h2>", *curves(folder, seen)])


def _figure(title: str, inside: str) -> str:
    return f"<figure>{inside}<figcaption>{escape(title)}</figcaption></figure>"


def _image(data: str, title: str) -> str:
    return f'<img src="{data}" alt="{escape(title)}">'


def spoken(folder: Folder, loud: NDArray[np.float64], first: int) -> NDArray[np.float64]:  # [n] of frames from `first` on -> [n], 1 far
    """How far the speech features of each frame lie from those of the quietest frames: it follows the loudness when they fit the sound."""
    table = features.steps(features.read(folder.file("aud.npy")))[first * STEPS : (first + len(loud)) * STEPS]
    rows = table[: len(table) // STEPS * STEPS].astype(np.float64).reshape(-1, STEPS, table.shape[1]).mean(1)
    loud = loud[: len(rows)]  # an older repository may have left out the last one
    rows /= np.maximum(rows.std(0), 1e-6)
    still = rows[np.argsort(loud)[: max(3, len(loud) // 10)]].mean(0)
    away = np.linalg.norm(rows - still, axis=1)
    return np.asarray((away - away.min()) / max(float(np.ptp(away)), 1e-6))


def loudness(folder: Folder) -> NDArray[np.float64]:  # -> [T] 0..1
    """Of each frame, -60 to -10 dB."""
    levels, _, _ = measures.loudness(sound(folder))
    return np.clip((levels[: folder.frames] + 60) / 50, 0, 1)


def facts(folder: Folder) -> str:
    """Length, size, what is used."""
    height, width = folder.size
    left_out = [f"{a} to {b}: {why}" for a, b, why in folder.clip.get("shots", ()) if why != "kept"]
    crop = folder.clip.get("crop")
    texts = [
        f"{escape(str(folder.clip['video']['file']))}: {folder.frames} frames ({folder.frames / FPS:.1f} s), {width} x {height} px",
        f"cut out at {crop[0]}, {crop[1]}, {crop[2]} px wide" if crop else "the whole picture",
        f"{int(folder.kept.sum())} frames used, {int(folder.kept[: folder.split].sum())} to train and the rest held out",
        f"cuts at {', '.join(str(k) for k in folder.clip['jumps'])}" if folder.clip.get("jumps") else "no cuts",
        f"left out: {escape('; '.join(left_out))}" if left_out else "",
        f"vivavoce {__version__}; " + escape(", ".join(f"{k} {_plain(v)}" for k, v in folder.clip.get("options", {}).items())),
    ]
    return "<br>".join(t for t in texts if t)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def table(verdicts: list[Verdict]) -> str:
    """The worst first."""
    order = (REFUSE, WARN, PASS)
    rows = [
        f'<tr><td>{escape(v.name)}</td><td class="{v.verdict}">{v.verdict}</td><td>{escape(v.what)}</td>'
        f"<td>{escape(v.limit)}</td><td>{escape(v.advice)}</td></tr>"
        for v in sorted(verdicts, key=lambda v: order.index(v.verdict))
    ]
    return f"<table><tr><th>check</th><th></th><th>found</th><th>limit</th><th>what to do</th></tr>{''.join(rows)}</table>"


def curves(folder: Folder, seen: Signals) -> list[str]:
    """Pose, eyes, mouth against loudness, and the agreement of lips and sound."""
    shaded = [(a / FPS, (b + 1) / FPS) for a, b, why in folder.clip.get("shots", ()) if why != "kept"]
    marks = [k / FPS for k in folder.clip.get("jumps", ())]
    turn = seen.turn - np.nanmedian(seen.turn, 0)
    reach = float(np.nanpercentile(np.abs(turn), 99.5)) + 2
    eyes = np.load(folder.file("blendshapes.npy"), mmap_mode="r")[:, [regions.BLENDSHAPES.index(f"eyeBlink{s}") for s in ("Left", "Right")]]
    loud = loudness(folder)
    mouth = seen.opening / max(float(np.nanpercentile(seen.opening, 99.5)), 1e-6)
    heard = {"mouth opening": mouth, "loudness": loud}
    first, length = _liveliest(loud, round(CLOSE * FPS)), round(CLOSE * FPS)
    near = {n: v[first : first + length] for n, v in heard.items()}
    pitch_yaw_roll = {n: turn[:, i] for i, n in enumerate(("pitch", "yaw", "roll"))}
    out = [
        plot(pitch_yaw_roll, "head pose against its median, degrees", (-reach, reach), shaded=shaded, marks=marks),
        plot({"left eye": 1 - eyes[:, 0], "right eye": 1 - eyes[:, 1]}, "eyes, 1 open", (0, 1), shaded=shaded, marks=marks),
        plot(heard, "mouth and loudness (-60 to -10 dB)", (0, 1), shaded=shaded, marks=marks),
    ]
    if folder.frames > 2 * CLOSE * FPS:
        out.append(plot(near, "the same, closer", (0, 1), start=first / FPS))
    if folder.file("aud.npy").is_file():
        said = {"features": spoken(folder, near["loudness"], first), "loudness": near["loudness"]}
        out.append(plot(said, "speech features, how far from those of silence, and loudness", (0, 1), start=first / FPS))
    if units := action_units(folder):
        out.append(plot(units, "action units of au.csv, 0 to 5", (0, 5), shaded=shaded, marks=marks))
    found = folder.clip.get("sync")
    if found:
        curve = np.array(found["curve"])
        span = (min(0.0, float(curve.min())) - 0.05, max(0.5, float(curve.max()) + 0.05))
        label = "agreement of lips and sound (correlation) over the delay of the sound"
        step, sure = 1000 / FPS, found["confidence"] >= sync.SURE
        out.append(plot({"correlation": curve}, label, span, -sync.LAGS * step, step, "ms", marks=[found["offset"] * 1000] * sure))
    return out


def action_units(folder: Folder) -> dict[str, NDArray[np.float64]]:  # name -> [T]
    """Some columns of au.csv; none where it is not there."""
    path = folder.file("au.csv")
    if not path.is_file():
        return {}
    names = [n.strip() for n in path.read_text("utf-8").partition("\n")[0].split(",")]
    wanted = {shown: names.index(unit) for shown, unit in UNITS.items() if unit in names}
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    return {shown: table[:, column] for shown, column in wanted.items()}


def _liveliest(loud: NDArray[np.float64], length: int) -> int:  # [T] -> first frame
    """Where the loudness changes most over that many frames."""
    change = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(loud)))])
    if len(change) <= length:
        return 0
    return int(np.argmax(change[length:] - change[:-length]))


def steps_table(folder: Folder) -> str:
    """Version and seconds of each step."""
    rows = [
        f"<tr><td>{escape(name)}</td><td>{r['version']}</td><td>{r['seconds']:.1f}</td></tr>"
        if "seconds" in r
        else f"<tr><td>{escape(name)}</td><td>{r['version']}</td><td>taken over</td></tr>"
        for name, r in folder.clip["artefacts"].items()
        if name != STEP.name
    ]
    return f"<table><tr><th>step</th><th>version</th><th>seconds, side by side with others</th></tr>{''.join(rows)}</table>"


def weights_table(folder: Folder) -> str:
    """Licences of the weights that the folder's options ask for."""
    chosen = [word for value in folder.clip["options"].values() for word in _plain(value).split()]
    names = [*ALWAYS, *(name for word in chosen for name in WEIGHTS.get(word, ()))]
    rows = []
    for asset in (CATALOGUE[n] for n in dict.fromkeys(names) if n in CATALOGUE):
        terms = "commercial use allowed" if asset.commercial else '<span class="refuse">no commercial use</span>'
        rows.append(f"<tr><td>{escape(asset.name)}</td><td>{escape(asset.what)}</td><td>{escape(asset.license)}</td><td>{terms}</td></tr>")
    return f"<table><tr><th>name</th><th>what for</th><th>licence</th><th></th></tr>{''.join(rows)}</table>"


def verify(folder: Folder) -> None:
    """A whole page that asks for nothing outside itself."""
    path, remedy = folder.file("report.html"), f"run: vivavoce prepare {folder.path} --only report"
    if not path.is_file():
        raise InputError(path, "is not there", remedy)
    text = path.read_text("utf-8", errors="replace")
    if not text.endswith("</html>") or re.search(r'(src|href)="(?!data:)', text):
        raise InputError(path, "is not whole", remedy)


STEP = Step("report", 0, 2, ("checks", "cameras", "torso", "body", "units", "speech", "halves"), ("report.html",), run, verify)
