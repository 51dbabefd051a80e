"""The page: who speaks, what is said, how; the film while it is made, and what this browser has made before.

Everything it loads comes from this server (Gradio brings its scripts and fonts), and nothing is reported anywhere. Orders go into the
same queue as those of programs. A browser keeps the names of its jobs, which are their keys: nobody else sees them.
"""

from __future__ import annotations

import html
import io
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vivavoce.data.portrait import Portrait
from vivavoce.media import pixels
from vivavoce.serve import api, uploads
from vivavoce.serve.jobs import ENDED, Job, Jobs, Order, Unknown
from vivavoce.types import FPS, InputError

OFTEN = 0.4  # s between two looks at a job
KEEP = ["download", "fullscreen"]  # buttons on a picture; Gradio would add one that shares it with another site
SHOWN = 12  # films in the gallery
KEPT = 6 * 3600  # s that Gradio keeps its copies of uploads and films
SETTINGS = ("renderer", "generator", "size", "face", "pose", "eyes", "background", "smooth_lips", "seed")
CONSENT = "I am, or have the consent of, the person shown and the person heard"


def mount(app: Any, jobs: Jobs, token: str = "") -> Any:
    """The application with the page at its root; with a token, behind a login whose password it is.

    Raises InputError when the extra is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import
    os.environ.setdefault("GRADIO_TEMP_DIR", str(jobs.folder.parent / "page"))
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError("vivavoce serve", f"{error.name} is not installed", "run: pip install 'vivavoce[serve]'") from error

    def knows(_: str, word: str) -> bool:
        return secrets.compare_digest(word.encode(), token.encode())

    return gr.mount_gradio_app(
        app,
        Page(jobs).blocks(gr),
        "/",
        auth=knows if token else None,
        auth_message="User: vivavoce. Password: the token the server was started with.",
        allowed_paths=[str(jobs.folder)],
        max_file_size=jobs.limits.upload,
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Default(),
    )


class Page:
    """What the page shows and what its buttons do.

    Args:
        jobs: the queue that it puts orders into.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.offered = jobs, api.offered(jobs)

    # ---- how it looks ----

    def blocks(self, gr: Any) -> Any:
        """The Gradio page."""
        with gr.Blocks(title="vivavoce", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
            gr.Markdown("# vivavoce\nA portrait, a video or a trained person says what you say. [Live, with the microphone](live)")
            mine = gr.BrowserState([], storage_key="vivavoce-jobs", secret="vivavoce")  # no secret: it lies in the user's own browser
            current = gr.State("")
            with gr.Row():
                with gr.Column():
                    who = self._who(gr)
                    what = self._what(gr)
                    how = self._how(gr)
                    consent = gr.Checkbox(False, label=CONSENT, elem_id="consent")
                    with gr.Row():
                        go = gr.Button("Speak", variant="primary", elem_id="speak")
                        stop = gr.Button("Stop", elem_id="stop")
                with gr.Column():
                    status = gr.HTML(_line("Ready."), elem_id="status")
                    live = gr.Image(label="Preview", interactive=False, elem_id="live", height=320, buttons=KEEP)
                    film = gr.Video(label="Film", interactive=False, elem_id="film", height=360, buttons=["download"])
                    gallery = gr.Gallery(
                        label="Made in this browser",
                        columns=4,
                        fit_columns=False,
                        height=260,
                        elem_id="gallery",
                        interactive=False,
                        buttons=KEEP,
                    )
            results = [status, live, film, gallery, mine, current]
            quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
            settings = [*who, *what, consent, *how]
            go.click(self.make, [mine, *settings], results, concurrency_limit=None, **quiet)
            stop.click(self.stop, current, status, **quiet)
            for changed in (who[1].change, how[1 + SETTINGS.index("face")].change):
                changed(self.crop, [who[1], how[1 + SETTINGS.index("face")]], [status, live], **quiet)
            page.load(self.gallery, mine, gallery, **quiet)
        return page

    def _who(self, gr: Any) -> list[Any]:
        """Which of them, a portrait, a video, a trained run."""
        kind = gr.State("portrait")
        with gr.Tabs():
            with gr.Tab("Portrait") as portrait:
                image = gr.Image(
                    label="A face, seen from the front", type="filepath", image_mode=None, height=280, elem_id="portrait",
                    sources=["upload", "webcam", "clipboard"], buttons=["fullscreen"],
                )  # fmt: skip
            with gr.Tab("Video") as video:
                film = gr.Video(label="Its best frame is taken", sources=["upload"], height=280, elem_id="video", buttons=[])
            with gr.Tab("Trained", visible=bool(self.jobs.actors)) as trained:
                actor = gr.Dropdown(list(self.jobs.actors), label="Run", elem_id="actor")
        for tab, name in ((portrait, "portrait"), (video, "video"), (trained, "trained")):
            tab.select(_always(name), None, kind, api_visibility="private", show_progress="hidden")
        return [kind, image, film, actor]

    def _what(self, gr: Any) -> list[Any]:
        """Which of them, a recording, a text."""
        way = gr.State("recording")
        with gr.Tabs():
            with gr.Tab("Recording") as recording:
                most = f"at most {self.jobs.limits.seconds:g} s"
                audio = gr.Audio(
                    label=f"What to say, {most}", sources=["upload", "microphone"], type="filepath", elem_id="audio", buttons=[]
                )
            with gr.Tab("Text", visible=self.offered["text"]) as text:
                words = gr.Textbox(label="In English", lines=4, max_length=self.jobs.limits.letters, elem_id="text")
        for tab, name in ((recording, "recording"), (text, "text")):
            tab.select(_always(name), None, way, api_visibility="private", show_progress="hidden")
        return [way, audio, words]

    def _how(self, gr: Any) -> list[Any]:
        """The mark, then SETTINGS in their order."""
        most = self.jobs.limits.size
        with gr.Accordion("Settings", open=False):
            mark = gr.Radio(self.offered["marks"], value="hidden", label="Mark on the pictures", info="metadata always says it was made")
            with gr.Row():
                renderer = gr.Dropdown(self.offered["renderers"], value="face_warp", label="Renderer", info="for a portrait or video")
                generator = gr.Dropdown(["", *self.offered["generators"]], value="", label="Generator", info="speech to motion")
            with gr.Row():
                size = gr.Number(0, label="Longest side, px", precision=0, minimum=0, maximum=most, info="0: as trained")
                face = gr.Number(0, label="Which face", precision=0, minimum=0, maximum=100, info="from the left; 0: the only one")
            with gr.Row():
                pose = gr.Radio(self.offered["poses"], value="source", label="Head")
                eyes = gr.Radio(self.offered["eyes"], value="source", label="Eyes")
            with gr.Row():
                background = gr.Textbox("", label="Background", info="a colour, behind a trained person", max_length=40)
                smooth = gr.Checkbox(False, label="Calmer lips")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        return [mark, renderer, generator, size, face, pose, eyes, background, smooth, seed]

    # ---- what it does ----

    def make(
        self,
        mine: list[str] | None,
        kind: str,
        image: str | None,
        film: str | None,
        actor: str | None,
        way: str,
        audio: str | None,
        text: str | None,
        consent: bool,
        mark: str,
        *settings: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Order a film and tell how it goes: status, newest frame, film, gallery, this browser's jobs, the job that goes on."""
        mine = list(mine or [])
        try:
            with ExitStack() as files:
                source = {"portrait": image, "video": film}.get(kind)
                streams = [files.enter_context(Path(p).open("rb")) if p else None for p in (source, audio if way == "recording" else None)]
                wishes = dict(zip(SETTINGS, settings, strict=True))
                name = (actor or "") if kind == "trained" else ""
                said = (text or "") if way == "text" else ""
                job = self.jobs.add(Order(streams[0], name, streams[1], said, consent, mark, wishes))
        except InputError as error:
            yield _line(str(error), bad=True), None, None, self.gallery(mine), mine, ""
            return
        mine = [job.id, *mine][:SHOWN]
        yield _line("Waiting."), None, None, self.gallery(mine), mine, job.id
        yield from self._follow(job, mine)

    def _follow(self, job: Job, mine: list[str]) -> Iterator[tuple[Any, ...]]:
        import gradio as gr

        while job.state not in ENDED:
            shown = Image.open(io.BytesIO(job.frame)) if job.frame else gr.skip()
            yield _line(self._going(job), job.done / max(job.total, 1)), shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            time.sleep(OFTEN)
        if job.state == "done":
            words = f"Done: {job.done} frames, {job.done / FPS:.1f} s of film in {job.ended - job.asked:.1f} s."
            notes = "".join(f" Note: {note}." for note in job.notes)
            yield _line(words + notes, 1.0), gr.skip(), str(job.film), self.gallery(mine), mine, ""
        else:
            error = job.error or {"subject": "Stopped", "cause": "no film was made", "remedy": ""}
            words = "; ".join(filter(None, (f"{error['subject']}: {error['cause']}", error["remedy"])))
            yield _line(words, bad=job.state == "failed"), None, None, self.gallery(mine), mine, ""

    def _going(self, job: Job) -> str:
        if job.state == "waiting":
            before = self.jobs.place(job)
            return f"Waiting: {before} before you." if before else "Waiting: you are next."
        return f"Frame {job.done} of {job.total}." if job.total else "Looking at the face and loading."

    def stop(self, current: str) -> str:
        """Stop the job that this page waits for."""
        try:
            if not current or self.jobs.get(current).state in ENDED:
                return _line("Nothing is being made.")
            self.jobs.cancel(current)
        except Unknown:
            return _line("Nothing is being made.")
        return _line("Stopping.")

    def crop(self, image: str | None, face: float | None) -> tuple[str, np.ndarray | None]:
        """The part of a portrait that will move, or why there is none."""
        if not image:
            return _line("Ready."), None
        try:
            with tempfile.TemporaryDirectory(prefix="vivavoce-crop-") as folder, Path(image).open("rb") as stream:
                path = uploads.source(stream, Path(folder), self.jobs.limits)
                portrait = Portrait(path, face=int(face or 0), name="portrait") if path.suffix == ".png" else None
        except InputError as error:
            return _line(str(error), bad=True), None
        if portrait is None or portrait.row.frames is None:
            return _line("This is a video: choose the page Video.", bad=True), None
        height, width = portrait.size
        return _line(f"A face was found: {width} x {height} px around it will move."), pixels(portrait.row.frames)[0]

    def gallery(self, mine: list[str] | None) -> list[tuple[str, str]]:
        """This browser's films that are still here, the newest first."""
        found = []
        for name in mine or []:
            try:
                job = self.jobs.get(str(name))
            except Unknown:
                continue
            if job.state == "done":
                found.append((str(job.film), time.strftime("%H:%M", time.localtime(job.ended))))
        return found


def _always(word: str) -> Callable[[], str]:
    return lambda: word


def _line(words: str, part: float | None = None, bad: bool = False) -> str:
    """A line of status, with a bar where a part (0..1) is given."""
    colour = "color:#b91c1c;font-weight:600" if bad else ""
    bar = "" if part is None else f'<progress max="1" value="{min(part, 1):.3f}" style="width:100%"></progress>'
    return f'<div role="{"alert" if bad else "status"}" style="{colour}">{html.escape(words)}</div>{bar}'
