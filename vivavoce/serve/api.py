"""The REST address: orders in, progress and films out; described by /api/openapi.json, readable at /api/docs.

The annotations of the endpoints are read by FastAPI, which is imported only when the server is built: this file therefore does
without `from __future__ import annotations`.
"""

import asyncio
import html
from typing import Annotated, Any

from vivavoce import __version__, tts
from vivavoce.controls import EYES
from vivavoce.serve import marks, uploads
from vivavoce.serve.jobs import Full, Jobs, Order, Unknown
from vivavoce.types import InputError

ABOUT = "Make a portrait, a video or a trained person say a recording or a text. Orders wait in one queue; the name of a job is its key."


def build(jobs: Jobs) -> Any:
    """A FastAPI application with everything below /api. Raises InputError when the extra is not installed."""
    try:
        from fastapi import FastAPI, Request
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import HTMLResponse, JSONResponse
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise InputError("vivavoce serve", f"{error.name} is not installed", "run: pip install 'vivavoce[serve]'") from error
    app = FastAPI(title="vivavoce", version=__version__, description=ABOUT, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None)

    def refused(status: int, error: InputError) -> JSONResponse:
        return JSONResponse({"subject": error.subject, "cause": error.cause, "remedy": error.remedy}, status)

    @app.exception_handler(InputError)
    async def bad(_: Request, error: InputError) -> JSONResponse:
        return refused(422, error)

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> JSONResponse:
        return refused(429, error)

    @app.exception_handler(Unknown)
    async def unknown(_: Request, error: Unknown) -> JSONResponse:
        return refused(404, InputError("job", "there is none of that name", "it may have been thrown away"))

    @app.exception_handler(RequestValidationError)
    async def odd(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        cause = "wants a file" if "uploadfile" in str(first["msg"]).lower() else str(first["msg"]).lower()
        return refused(422, InputError(str(first["loc"][-1]), cause, "see: /api/docs"))

    @app.exception_handler(HTTPException)
    async def astray(request: Request, error: HTTPException) -> JSONResponse:
        subject = f"{request.method} {request.url.path}"[:80]
        return refused(error.status_code, InputError(subject, str(error.detail).rstrip(".").lower(), "see: /api/docs"))

    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(readable(app.openapi()))

    @app.get("/api/about", summary="What this server can do")
    async def about() -> dict[str, Any]:
        return offered(jobs)

    _orders(app, jobs)
    _results(app, jobs)

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def nothing(rest: str) -> None:  # else the page would answer, in words of its own
        raise HTTPException(404, "there is nothing at this address")

    return app


def offered(jobs: Jobs) -> dict[str, Any]:
    """Names that may be asked for, and the limits."""
    try:
        speaks = tts.voice().is_file()
    except InputError:
        speaks = False
    return {
        "version": __version__,
        "renderers": uploads.methods("renderer"),
        "generators": uploads.methods("generator"),
        "actors": list(jobs.actors),
        "poses": list(uploads.POSES),
        "eyes": list(EYES),
        "marks": list(marks.MARKS),
        "text": speaks,
        "limits": vars(jobs.limits),
    }


def _orders(app: Any, jobs: Jobs) -> None:
    from fastapi import File, Form, Request, UploadFile

    @app.post("/api/jobs", status_code=202, summary="Order a film")
    async def order(
        request: Request,
        consent: Annotated[bool, Form(description="the persons seen and heard agree")] = False,
        source: Annotated[UploadFile | None, File(description="portrait or video")] = None,
        actor: Annotated[str, Form(description="instead: a trained run of /api/about")] = "",
        audio: Annotated[UploadFile | None, File(description="what to say: any sound, or a film with sound")] = None,
        text: Annotated[str, Form(description="instead: in words")] = "",
        mark: Annotated[str, Form(description="on the pictures: none, seen, hidden, both")] = "hidden",
        renderer: Annotated[str, Form(description="method for a portrait")] = "",
        generator: Annotated[str, Form(description="speech to motion")] = "",
        size: Annotated[int, Form(description="longest side, px; 0: as the picture")] = 0,
        face: Annotated[int, Form(description="which face of a portrait, from the left; 0: the only one")] = 0,
        pose: Annotated[str, Form(description="of the head: source, generator, fixed")] = "",
        eyes: Annotated[str, Form(description="source, fixed, blink")] = "",
        background: Annotated[str, Form(description="a colour behind a trained person")] = "",
        smooth_lips: Annotated[bool, Form(description="calmer lips")] = False,
        seed: Annotated[int, Form(description="of the idle motion")] = 0,
    ) -> dict[str, Any]:
        wishes = dict(
            renderer=renderer, generator=generator, size=size, face=face, pose=pose, eyes=eyes,
            background=background, smooth_lips=smooth_lips, seed=seed,
        )  # fmt: skip
        kind = request.headers.get("content-type", "")
        if kind and not kind.startswith(("multipart/form-data", "application/x-www-form-urlencoded")):
            raise InputError(
                "Content-Type", f"{kind[:40]!r} is no form", "send multipart/form-data: curl -F consent=true -F source=@me.jpg ..."
            )
        if strange := (await request.form()).keys() - {*wishes, "consent", "source", "actor", "audio", "text", "mark"}:
            raise InputError(", ".join(sorted(strange))[:80], "no such setting", "see: /api/docs")
        streams = [upload.file if upload is not None else None for upload in (source, audio)]
        asked = Order(streams[0], actor, streams[1], text, consent, mark, wishes)
        return jobs.told(await asyncio.to_thread(jobs.add, asked))  # decoding the uploads must not hold up the others


def _results(app: Any, jobs: Jobs) -> None:
    from fastapi.responses import FileResponse, Response

    @app.get("/api/jobs/{name}", summary="How far a job is")
    async def status(name: str) -> dict[str, Any]:
        return jobs.told(jobs.get(name))

    @app.delete("/api/jobs/{name}", summary="Stop a job, or throw its film away")
    async def cancel(name: str) -> dict[str, Any]:
        return jobs.told(await asyncio.to_thread(jobs.cancel, name))

    @app.get("/api/jobs/{name}/frame", summary="The newest frame of a job that runs, JPEG", response_class=Response)
    async def frame(name: str) -> Response:
        picture = jobs.get(name).frame
        return Response(picture, media_type="image/jpeg") if picture else Response(status_code=204)

    @app.get("/api/jobs/{name}/film", summary="The film, MP4", response_class=FileResponse)
    async def film(name: str) -> FileResponse:
        return FileResponse(whole(name, "film.mp4"), media_type="video/mp4", filename="vivavoce.mp4")

    @app.get("/api/jobs/{name}/preview", summary="A strip of frames of the film, PNG", response_class=FileResponse)
    async def preview(name: str) -> FileResponse:
        return FileResponse(whole(name, "film-preview.png"), media_type="image/png", filename="vivavoce.png")

    def whole(name: str, file: str) -> str:
        job = jobs.get(name)
        path = job.folder / file
        if job.state != "done" or not path.is_file():
            raise InputError("job", f"is {job.state}, it has no film", f"wait until /api/jobs/{job.id} says done")
        return str(path)


def readable(schema: dict[str, Any]) -> str:
    """The description as a page that loads nothing from elsewhere."""
    rows = []
    for path, verbs in schema["paths"].items():
        for verb, about in verbs.items():
            forms = [kind["schema"].get("$ref", "") for kind in about.get("requestBody", {}).get("content", {}).values()]
            known = schema.get("components", {}).get("schemas", {})
            fields = {k: v for form in forms for k, v in known.get(form.split("/")[-1], {}).get("properties", {}).items()}
            items = "".join(f"<li><code>{html.escape(k)}</code> {html.escape(v.get('description', ''))}</li>" for k, v in fields.items())
            rows.append(
                f"<h2><code>{verb.upper()} {html.escape(path)}</code></h2><p>{html.escape(about.get('summary', ''))}</p><ul>{items}</ul>"
            )
    style = "body{font:16px/1.5 sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}h2{margin-bottom:0}code{font-size:1rem}"
    head = f"<!doctype html><meta charset=utf-8><title>vivavoce</title><style>{style}</style>"
    link = '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
    return f"{head}<h1>vivavoce {__version__}</h1><p>{html.escape(ABOUT)}</p>{link}{''.join(rows)}"
