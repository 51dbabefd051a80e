"""The page of `serve`: its pieces, and (slow) the whole in a real browser.

The browser test wants Chromium with its driver and selenium: `apt-get install chromium chromium-driver`, `pip install selenium`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import hostile
from vivavoce.media import frames, probe
from vivavoce.serve import api, live, marks, page, stage, uploads
from vivavoce.serve.guard import Guard
from vivavoce.serve.jobs import Jobs
from vivavoce.types import HOP

pytest.importorskip("gradio", reason="needs the extra: pip install 'vivavoce[serve]'")
from starlette.applications import Starlette
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    queue = Jobs(tmp_path_factory.mktemp("page") / "work", uploads.Limits(seconds=2), device="cpu")
    yield queue
    queue.close()


def test_the_page_is_behind_its_token_and_names_no_other_place(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(jobs.folder.parent / "page"))
    app = Guard(page.mount(api.build(jobs), jobs, "secret"), "secret", "0.0.0.0")
    client = TestClient(app, base_url="http://films.example")
    assert "Speak" not in client.get("/config").text
    assert client.post("/login", data={"username": "anybody", "password": "wrong"}).status_code == 400
    assert client.post("/login", data={"username": "anybody", "password": "secret"}).status_code == 200
    config = client.get("/config").json()
    labels = [c["props"].get("label") or c["props"].get("value") for c in config["components"]]
    assert page.CONSENT in labels and "Speak" in labels and "Stop" in labels
    for component in config["components"]:  # without a list of buttons Gradio adds one that shares with another site
        if component["type"] in ("image", "video", "audio", "gallery"):
            assert component["props"]["buttons"] is not None and "share" not in component["props"]["buttons"]
    assert config["analytics_enabled"] is False and os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert client.get("/api/about").status_code == 401  # a login on the page is none for programs
    assert client.get("/api/about", headers={"authorization": "Bearer secret"}).status_code == 200


def test_the_button_tells_what_is_wrong_in_one_line(jobs: Jobs, tmp_path: Path) -> None:
    shown = page.Page(jobs)
    face, voice = str(hostile.picture(tmp_path / "face.png")), str(hostile.wav(tmp_path / "a.wav", 3))
    settings = ("hidden", "face_warp", "", 0, 0, "source", "source", "", False, 0)
    asked: list[tuple[Any, ...]] = [
        (["x"], "portrait", face, None, "", "recording", voice, "", False, *settings),
        ([], "portrait", None, None, "", "recording", voice, "", True, *settings),
        ([], "portrait", face, None, "", "recording", voice, "", True, *settings),  # 3 s, where 2 are taken
        ([], "trained", face, None, "<b>", "recording", voice, "", True, *settings),
    ]
    lines = [list(shown.make(*order)) for order in asked]
    assert [len(answers) for answers in lines] == [1] * 4 and all('role="alert"' in answers[0][0] for answers in lines)
    words = [answers[0][0] for answers in lines]
    assert "consent" in words[0] and "who speaks" in words[1] and "at most 2" in words[2] and "&lt;b&gt;" in words[3]
    assert "no face found" in shown.crop(str(hostile.picture(tmp_path / "grey.png", np.full((99, 99, 3), 90, np.uint8))), 0)[0]
    line, crop = shown.crop(face, 0)
    assert "will move" in line and crop is not None and crop.shape[0] == crop.shape[1] >= 128
    assert "Nothing" in shown.stop("") and "Nothing" in shown.stop("f" * 32) and shown.gallery(["../../etc", "x"]) == []


def test_an_order_of_the_page_is_followed_to_its_film(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(source: Path, audio: Path, out: Path, options: Any, progress: Callable[[int, int], None], *_: Any) -> Any:
        progress(1, 2)
        time.sleep(1)
        hostile.video(out, 2)
        progress(2, 2)
        return type("Report", (), {"notes": ["a note"]})

    monkeypatch.setattr("vivavoce.run.speak", made)
    settings = ("none", "face_warp", "", 0, 0, "source", "source", "", False, 0)
    face, voice = str(hostile.picture(tmp_path / "face.png")), str(hostile.wav(tmp_path / "a.wav", 0.2))
    shown = page.Page(jobs)
    answers = list(shown.make(None, "portrait", face, None, "", "recording", voice, "", True, *settings))
    mine = answers[0][4]
    assert len(mine) == 1 and answers[0][5] == mine[0] and any("Frame 1 of 2" in line for line, *_ in answers)
    assert "Done: 2 frames" in answers[-1][0] and "a note" in answers[-1][0] and answers[-1][2] == answers[-1][3][0][0]
    assert shown.gallery(mine) == answers[-1][3]


# ---- in a browser ----


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`vivavoce serve` as a user starts it, on a free port."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "vivavoce.cli", "serve", "--port", str(port), "--work", str(tmp_path / "work"), "--device", "cpu"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)}, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe_socket:
                if probe_socket.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        else:
            raise AssertionError((tmp_path / "server.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs: pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for word in [*quiet.split(), f"user-data-dir={tmp_path / 'profile'}", "window-size=1400,1500", "disable-dev-shm-usage", *FAKE]:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    shown = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield shown
    shown.quit()


def waited(browser: Any, what: Callable[[], Any], seconds: float = 240) -> Any:
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except (NoSuchElementException, StaleElementReferenceException):  # the page redraws itself
            pass
        time.sleep(0.1)
    raise AssertionError(browser.find_element("tag name", "body").text)


def requested(browser: Any) -> set[str]:
    """Addresses of everything that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


def looking(browser: Any) -> tuple[Callable[[str], Any], Callable[[], str]]:
    """What finds a part of the page, and what reads the line of status."""

    def find(css: str) -> Any:
        return browser.find_element("css selector", css)

    return find, lambda: str(find("#status").text)


FAKE = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")  # a microphone without a user
VOICE = "#audio [data-testid='waveform-Waveform audio'], #audio audio, #audio .waveform-container"


@pytest.mark.slow
def test_a_user_makes_a_film_in_a_browser(server: str, browser: Any, tmp_path: Path) -> None:
    """Portrait and voice up, consent, progress watched, a film that plays; a bad upload refused; nothing from elsewhere."""
    face, voice = hostile.picture(tmp_path / "face.png"), hostile.wav(tmp_path / "voice.wav", 2)
    grey = hostile.picture(tmp_path / "grey.png", np.full((200, 200, 3), 120, np.uint8))

    find, status = looking(browser)
    browser.get(server)
    waited(browser, lambda: find("#portrait input[type=file]")).send_keys(str(grey))
    waited(browser, lambda: "no face found" in status())
    find("#portrait button[aria-label='Clear'], #portrait button[title='Clear'], #portrait button[aria-label='Remove Image']").click()
    waited(browser, lambda: find("#portrait input[type=file]")).send_keys(str(face))
    waited(browser, lambda: "will move" in status())
    find("#audio input[type=file]").send_keys(str(voice))
    waited(browser, lambda: find(VOICE))
    find("#speak").click()
    waited(browser, lambda: "consent" in status())
    find("#consent input").click()
    find("#speak").click()
    going = waited(browser, lambda: status() if "Frame " in status() else "")
    browser.save_screenshot(str(tmp_path / "going.png"))
    waited(browser, lambda: "Done: 50 frames" in status())
    film = waited(browser, lambda: find("#film video"))
    assert waited(browser, lambda: browser.execute_script("return arguments[0].duration", film)) == pytest.approx(2, abs=0.2)
    waited(browser, lambda: find("#gallery video, #gallery img"))
    assert "of 50" in going
    browser.save_screenshot(str(tmp_path / "done.png"))
    made = next((tmp_path / "work" / "jobs").glob("*/film.mp4"))
    assert len(list(frames(made))) == 50 and probe(made).audio_codec == "aac" and marks.found(made) > marks.SURE
    foreign = {
        url for url in requested(browser) if url.startswith(("http", "ws")) and not url.startswith((server, server.replace("http", "ws")))
    }
    assert not foreign, foreign


@pytest.mark.slow
def test_two_users_and_a_stop_in_a_browser(server: str, browser: Any, tmp_path: Path) -> None:
    """The second waits for the first; when the first has had enough, the second's film is made."""
    face = hostile.picture(tmp_path / "face.png")
    find, status = looking(browser)
    tabs = []
    for seconds in (60, 1):
        browser.switch_to.new_window("tab")
        tabs.append(browser.current_window_handle)
        browser.get(server)
        waited(browser, lambda: find("#portrait input[type=file]")).send_keys(str(face))
        waited(browser, lambda: "will move" in status())
        find("#audio input[type=file]").send_keys(str(hostile.wav(tmp_path / f"{seconds}.wav", seconds)))
        waited(browser, lambda: find(VOICE))
        find("#consent input").click()
        find("#speak").click()
        waited(browser, lambda: "Frame " in status() if seconds == 60 else "you are next" in status())  # noqa: B023
    browser.switch_to.window(tabs[0])
    find("#stop").click()
    waited(browser, lambda: "Stopped" in status())
    browser.switch_to.window(tabs[1])
    waited(browser, lambda: "Done: 25 frames" in status())
    assert len(list((tmp_path / "work" / "jobs").glob("*/film.mp4"))) == 1


@pytest.mark.slow
def test_a_face_speaks_live_in_a_browser(server: str, browser: Any, tmp_path: Path) -> None:
    """Chromium's made-up microphone beeps once a second; pictures come while it does, and end when the user ends it."""
    find, status = looking(browser)
    browser.get(f"{server}/live")
    find("#start").click()
    waited(browser, lambda: "who speaks" in status())
    find("#portrait").send_keys(str(hostile.picture(tmp_path / "face.png")))
    find("#start").click()
    waited(browser, lambda: "consent" in status() and find("#start").is_enabled())
    find("#consent").click()
    find("#start").click()
    waited(browser, lambda: " pictures, " in status() and int(status().split()[0]) > 50)
    browser.save_screenshot(str(tmp_path / "live.png"))
    find("#end").click()
    waited(browser, lambda: "pictures were shown" in status())
    waited(browser, lambda: find("#start").is_enabled())
    assert find("#face").get_attribute("width") == "256"
    find("#recording").send_keys(str(hostile.wav(tmp_path / "voice.wav", 2)))
    find("#start").click()
    waited(browser, lambda: "pictures were shown" in status() and not status().startswith("0 of"))  # ends with the recording
    shown, _, count = status().split()[:3]
    assert 0 < int(shown) <= int(count) <= 60  # 2 s; what a slow computer has no time for is left out


class Lamp:
    """Speaks by being white while there is sound, so that a picture's time can be read off it."""

    lookahead = 0.0

    def stream(self, chunks: Any, skip: Any = None) -> Iterator[Any]:
        rest = torch.zeros(0)
        for chunk in chunks:
            rest = torch.cat([rest, chunk])
            while len(rest) >= HOP:
                frame, rest = rest[:HOP], rest[HOP:]
                yield (frame.abs().amax() > 0.05).float().expand(1, 3, 64, 64)


# For eight seconds: when each sound began that the page let out, to the sample, and when the canvas became white, at the pictures of the
# screen; both by the sound card's clock, in ms.
WATCH = """
const told = arguments[0], [heard, seen] = [[], []], begun = performance.now(), pen = find("face").getContext("2d");
const code = `registerProcessor("watch", class extends AudioWorkletProcessor {
  process([[input]]) {
    for (let i = 0; input && i < input.length; i++) {
      if (Math.abs(input[i]) > 0.05) {
        if (this.quiet > sampleRate / 10) this.port.postMessage(1000 * (currentFrame + i) / sampleRate);
        this.quiet = 0;
      } else this.quiet = (this.quiet || 0) + 1;
    }
    return true;
  }
});`;
let last = true;
live.sound.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))).then(() => {
  const watch = new AudioWorkletNode(live.sound, "watch", { numberOfOutputs: 0 });
  watch.port.onmessage = ({ data }) => heard.push(data);
  live.ear.connect(watch);
  (function look() {
    const white = pen.getImageData(20, 20, 1, 1).data[0] > 128;
    if (white && !last) seen.push(1000 * live.sound.currentTime);
    last = white;
    if (performance.now() - begun < 8000) requestAnimationFrame(look);
    else told([heard, seen, 1000 * (live.sound.outputLatency || 0), live.apart]);
  })();
});
"""


@pytest.mark.slow
def test_sound_and_picture_of_the_live_page_go_together(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every beep is seen within 40 ms of being heard, measured on the page's own output."""
    import uvicorn

    def lit(room: Any, wishes: dict[str, Any], portrait: bytes) -> stage.Session:
        assert wishes.pop("hurry") and portrait
        return stage.Session(Lamp(), (64, 64), [], "none", True)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.Stage, "session", lit)
    app = Starlette()
    live.mount(app, stage.Stage({}, uploads.Limits(), "cpu"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        at, server = listening.getsockname()[1], uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        find, status = looking(browser)
        browser.set_script_timeout(60)
        browser.get(f"http://127.0.0.1:{at}/live")
        find("#portrait").send_keys(str(hostile.picture(tmp_path / "face.png")))
        find("#consent").click()
        find("#start").click()
        waited(browser, lambda: " pictures, " in status() and int(status().split()[0]) > 75, 60)
        heard, seen, latency, apart = browser.execute_async_script(WATCH)
        server.should_exit = True
        thread.join(20)
    assert len(heard) >= 3
    late = [min((s - latency - h for s in seen), key=abs) for h in heard[1:-1]]
    assert abs(float(np.median(late))) <= 40, (late, latency)
    assert float(np.median(apart)) <= 40
