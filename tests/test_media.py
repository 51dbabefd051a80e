"""media: time stamps, turns, channels, damage; what is written is what is read."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.films import film, number, numbered, steady, tone
from vivavoce import media
from vivavoce.media import Writer, audio, audio_chunks, frames, glimpses, probe, read_image, sound, write_audio, write_image
from vivavoce.media.colour import EXACT, converted
from vivavoce.types import InputError

MATRIX = {  # display matrices: rows a b u, c d v, x y w act on row vectors, y down
    "as it is": [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30],
    "clockwise": [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30],  # what a phone held upright writes
    "half": [-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30],
    "counter-clockwise": [0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30],
    "mirrored": [-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30],
}


def seen(path: Path, rate: float = 25) -> list[int]:
    return [number(f) for f in frames(path, rate)]


def shown(times: list[float], end: float, rate: float = 25) -> list[int]:
    """Which source frame is on screen in the middle of each frame of a film at `rate`."""
    starts = np.asarray(times) - times[0]
    middles = (np.arange(round((end - times[0]) * rate) + 2) + 0.5) / rate
    return [int(np.searchsorted(starts, m + 1e-6, side="right")) - 1 for m in middles if m < end - times[0] - 1e-6]


# ---- decoding: the clock ----


@pytest.mark.parametrize("rate", [12, 24000 / 1001, 25, 30000 / 1001, 30, 50, 60])
def test_any_rate_becomes_25(tmp_path: Path, rate: float) -> None:
    count = round(2 * rate)
    times = [k / rate for k in range(count)]
    path = steady(tmp_path / "a.mp4", rate)
    got = seen(path)
    assert got == shown(times, count / rate)
    assert len(got) == round(25 * count / rate)
    assert probe(path).rate == pytest.approx(rate, rel=0.03)


def test_own_rate_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert seen(steady(tmp_path / "a.mp4", 25)) == list(range(50))
    assert seen(steady(tmp_path / "b.mp4", 30), 30) == list(range(60))


def test_jittering_stamps_of_25_are_one_to_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    times = [k / 25 + random.uniform(-0.012, 0.012) for k in range(1, 60)]
    assert seen(film(tmp_path / "a.mkv", [numbered(k) for k in range(59)], times)) == list(range(59))


@pytest.mark.parametrize("seed", range(4))
def test_variable_rate_follows_stamps(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.choice([1 / 60, 1 / 24, 0.1, 0.35], 40)).round(3).tolist()
    path = film(tmp_path / "a.mp4", [numbered(k) for k in range(40)], times)
    assert seen(path) == shown(times, times[-1] + 0.04)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("rate", "sound_rate", "video_at", "sound_at"),
    [
        (25, 44100, 0, 0),
        (12, 8000, 0, 0),
        (30000 / 1001, 48000, 0, 0.3),
        (60, 22050, 0.4, 0),
        (24000 / 1001, 48000, 0.2, 0.48),
        (25, 16000, 0.52, 0),
    ],
)
def test_flash_and_beep_land_in_one_row(
    tmp_path: Path, container: str, rate: float, sound_rate: int, video_at: float, sound_at: float
) -> None:
    flash = round(rate)  # number of the frame that flashes, about 1 s after the first
    when = video_at + flash / rate
    images = [np.full((48, 64, 3), 255 if k >= flash else 20, np.uint8) for k in range(2 * flash)]
    wave = tone(2.2, sound_rate, when - sound_at)
    path = film(tmp_path / f"a.{container}", images, [video_at + k / rate for k in range(len(images))], wave, sound_rate, sound_at)
    row = next(k for k, f in enumerate(frames(path)) if f.mean() > 128)
    start = int(np.flatnonzero(audio(path).abs().numpy() > 0.25)[0])
    assert start == pytest.approx((when - video_at) * 16000, abs=48)  # 3 ms: AAC smears an onset
    assert (start + 48) // 640 == row == round((when - video_at) * 25)


def test_sound_of_another_length_and_alone(tmp_path: Path) -> None:
    path = film(tmp_path / "a.wav", sound=tone(1.5, 8000), sound_rate=8000, audio_codec="pcm_s16le")
    wave = audio(path)
    assert len(wave) == 24000
    spectrum = np.abs(np.fft.rfft(wave.numpy()))
    assert np.argmax(spectrum) == 1500  # 1 kHz in 1.5 s
    assert float(wave[2000:-2000].abs().max()) == pytest.approx(0.5, abs=0.01)


def test_gap_in_sound_is_silence(tmp_path: Path) -> None:
    rate, path = 16000, tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        track = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        for at in (0.0, 1.5):
            frame = av.AudioFrame.from_ndarray(np.full((1, rate // 2), 9000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(at * rate)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    wave = audio(path).numpy()
    assert len(wave) == 2 * rate
    assert np.abs(wave[8100:23900]).max() < 1e-4 and wave[:7900].min() > 0.2 and wave[24100:].min() > 0.2


def test_chunks_are_the_sound(tmp_path: Path) -> None:
    path = film(tmp_path / "a.wav", sound=tone(3.01, 44100, 0.5), audio_codec="pcm_s16le")
    chunks, whole = list(audio_chunks(path, 25)), audio(path)
    assert [len(c) for c in chunks] == [16000, 16000, 16000, 640]
    joined = torch.cat(chunks)
    assert torch.equal(joined[: len(whole)], whole) and not joined[len(whole) :].any()


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6), ("7.1", 8)])
def test_channels_are_mixed_without_growing_louder(tmp_path: Path, layout: str, channels: int) -> None:
    path = film(tmp_path / "a.mkv", sound=tone(1, 48000, channels=channels), sound_rate=48000, layout=layout, audio_codec="flac")
    assert probe(path).channels == channels
    loud = float(audio(path)[2000:-2000].abs().max())
    assert loud == pytest.approx(0.5, abs=0.02) if channels <= 2 else 0.2 < loud <= 0.52
    assert np.concatenate(list(sound(path, 48000, "stereo")), 1).shape == (2, 48000)


def test_the_middle_channel_is_heard(tmp_path: Path) -> None:
    wave = tone(1, 48000, channels=6)
    wave[[0, 1, 3, 4, 5]] = 0  # speech of films is in the centre
    path = film(tmp_path / "a.mkv", sound=wave, sound_rate=48000, layout="5.1", audio_codec="flac")
    assert float(audio(path)[2000:-2000].abs().max()) > 0.1


# ---- decoding: the picture ----


@pytest.mark.parametrize("name", MATRIX)
def test_turned_as_the_file_asks(tmp_path: Path, name: str) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    wanted = {
        "as it is": image,
        "clockwise": np.rot90(image, -1),
        "half": np.rot90(image, 2),
        "counter-clockwise": np.rot90(image, 1),
        "mirrored": image[:, ::-1],
    }[name]
    path = film(tmp_path / "a.mp4", [image] * 3, [0, 0.04, 0.08], matrix=MATRIX[name])
    got = next(frames(path))
    assert got.shape == wanted.shape and got.flags.c_contiguous
    inner = np.abs(got.astype(int) - wanted)[4:20, 4:20]
    assert inner.max() < 12
    assert np.abs(got.astype(int) - wanted).mean() < 12
    assert probe(path).size == wanted.shape[:2] and probe(path).turned == (name != "as it is")


def test_square_pixels(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [numbered(0)] * 3, [0, 0.04, 0.08], aspect=Fraction(2, 1))
    assert next(frames(path)).shape == (48, 128, 3) and probe(path).size == (48, 128)


def test_odd_size_and_other_codecs(tmp_path: Path) -> None:
    odd = film(tmp_path / "a.mp4", [numbered(k, 51, 67) for k in range(5)], [k / 25 for k in range(5)], pix_fmt="yuv444p")
    assert next(frames(odd)).shape == (51, 67, 3) and seen(odd) == list(range(5))
    hevc = film(tmp_path / "b.mp4", [numbered(k, 64, 80) for k in range(5)], [k / 25 for k in range(5)], codec="libx265")
    assert seen(hevc) == list(range(5)) and probe(hevc).video_codec == "hevc"


def test_colours_are_not_darkened(tmp_path: Path) -> None:
    """The default conversion of FFmpeg is 1.2 levels too dark on the mean, each way."""
    y, x = np.mgrid[0:128, 0:128]
    image = np.stack([60 + x, 60 + y, 187 - (x + y) // 2], -1).astype(np.uint8)
    with Writer(tmp_path / "a.mp4", (128, 128)) as out:
        out.write(np.repeat(image[None], 10, 0))
    got = next(frames(tmp_path / "a.mp4")).astype(float)
    assert np.abs((got - image).mean((0, 1))).max() < 0.5


def test_glimpses_are_spread(tmp_path: Path) -> None:
    for gop in (12, 1000):  # many key frames, and one only
        path = steady(tmp_path / f"{gop}.mp4", 25, 8, gop=gop)
        found = [number(f) for f in glimpses(path, 12)]
        assert 4 <= len(set(found)) <= 13 and max(found) > 130 and min(found) < 40


# ---- damage ----


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    out = path.with_name(f"cut-{path.name}")
    out.write_bytes(data[: int(len(data) * share)])
    return out


def test_truncated_gives_what_is_there(tmp_path: Path) -> None:
    more = {"sound": tone(4, 44100), "seconds": 4}
    for path in (steady(tmp_path / "a.mkv", **more), steady(tmp_path / "b.mp4", movflags="+faststart", **more)):
        part = seen(cut(path, 0.6))
        assert 20 < len(part) < 100 and part == list(range(len(part)))
        assert 16000 < len(audio(cut(path, 0.6))) < 64000


def test_index_lost_is_told(tmp_path: Path) -> None:
    broken = cut(steady(tmp_path / "a.mp4"), 0.7)  # the index is at the end
    for use in (lambda: next(frames(broken)), lambda: audio(broken), lambda: probe(broken), lambda: next(glimpses(broken, 5))):
        with pytest.raises(InputError, match="damaged"):
            use()


def test_noise_in_the_middle_is_skipped(tmp_path: Path) -> None:
    path = steady(tmp_path / "a.mkv", seconds=4, gop=5)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(data)
    got = seen(path)
    assert 80 <= len(got) <= 101 and got[:30] == list(range(30)) and got[-1] == 99


def test_what_is_no_media(tmp_path: Path) -> None:
    text, empty, folder = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    text.write_text("hello, this is a letter\n" * 100)
    empty.write_bytes(b"")
    folder.mkdir()
    noise = tmp_path / "d.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(20000))
    list_of_files = tmp_path / "e.mp4"
    list_of_files.write_text("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    for path in (text, empty, folder, noise, list_of_files, tmp_path / "nothing.mp4"):
        for use in (probe, audio, lambda p: next(frames(p)), lambda p: next(audio_chunks(p))):
            with pytest.raises(InputError) as told:
                use(path)
            assert str(path) in str(told.value) and "\n" not in str(told.value) and told.value.remedy


def test_unreadable_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = steady(tmp_path / "a.mp4", seconds=0.2)

    def refused(*args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(media.probe.__globals__["av"], "open", refused)
    with pytest.raises(InputError, match="may not be read"):
        probe(path)


def test_a_stream_that_is_not_there(tmp_path: Path) -> None:
    silent = steady(tmp_path / "a.mp4", seconds=0.4)
    assert probe(silent).audio_codec is None
    with pytest.raises(InputError, match="no sound"):
        audio(silent)
    heard = film(tmp_path / "a.wav", sound=tone(0.5, 16000), sound_rate=16000, audio_codec="pcm_s16le")
    assert probe(heard).size == (0, 0) and probe(heard).duration == pytest.approx(0.5)
    with pytest.raises(InputError, match="no video"):
        next(frames(heard))


def test_broken_stamps_do_not_run_for_ever(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [numbered(k) for k in range(3)], [0, 0.04, 90_000])
    with pytest.raises(InputError, match="jump"):
        list(frames(path))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path, wave = tmp_path / "song.mp3", tone(2, 44100, 0.5)
    with av.open(str(path), "w") as out:
        track, cover = out.add_stream("libmp3lame", rate=44100, layout="mono"), out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "rgb24", av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered(0), format="rgb24")
        picture.pts = 0
        frame = av.AudioFrame.from_ndarray((wave * 2e9).astype(np.int32), format="s32p", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        for packet in [*cover.encode(picture), *cover.encode(None), *track.encode(frame), *track.encode(None)]:
            out.mux(packet)
    assert probe(path).size == (0, 0) and len(audio(path)) == 32000
    assert np.flatnonzero(audio(path).abs().numpy() > 0.25)[0] == pytest.approx(8000, abs=48)
    with pytest.raises(InputError, match="no video"):
        next(frames(path))


# ---- encoding ----


def test_written_is_read(tmp_path: Path) -> None:
    path, count = tmp_path / "deep" / "a.mp4", 30
    images = torch.from_numpy(np.stack([numbered(k, 96, 128) for k in range(count)])).permute(0, 3, 1, 2).float() / 255
    wave = torch.from_numpy(tone(count / 25, 16000, 0.4)[0])
    with Writer(path, (96, 128), audio=iter(wave.split(1000))) as out:
        for part in images.split(7):
            out.write(part)
        assert not path.exists()
    info = probe(path)
    assert (info.size, info.rate, info.video_codec, info.audio_rate) == ((96, 128), 25, "h264", 16000)
    got = np.stack(list(frames(path)))
    assert [number(f) for f in got] == list(range(count))
    error = (got / 255 - images.permute(0, 2, 3, 1).numpy()) ** 2
    assert -10 * np.log10(error.mean()) > 33
    heard = audio(path)
    assert int(np.flatnonzero(heard.abs().numpy() > 0.25)[0]) == pytest.approx(6400, abs=48)
    assert abs(len(heard) - count * 640) <= 1024
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("rate", [12, 24000 / 1001, 30, 50])
def test_any_rate_out(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "a.mp4"
    with Writer(path, (48, 64), rate, source_rate=25) as out:
        for k in range(50):
            out.write(numbered(k))
    got = [number(f) for f in frames(path, rate)]
    assert abs(len(got) - 2 * rate) <= 1
    assert got == [int((k + 0.5) / rate * 25) for k in range(len(got))]
    assert probe(path).rate == pytest.approx(rate, rel=1e-3)


def test_sound_of_a_file_keeps_rate_and_ends_with_the_film(tmp_path: Path) -> None:
    source = film(tmp_path / "a.wav", sound=tone(3, 44100, 0.5, channels=2), layout="stereo", audio_codec="pcm_s16le")
    with Writer(tmp_path / "a.mkv", (48, 64), audio=source) as out:
        out.write(np.stack([numbered(k) for k in range(40)]))
    info = probe(tmp_path / "a.mkv")
    assert (info.audio_rate, info.channels) == (44100, 2)
    assert len(audio(tmp_path / "a.mkv")) == pytest.approx(40 * 640, abs=1024)
    with av.open(str(tmp_path / "a.mkv")) as file:  # sound lies beside its pictures, not behind them
        stamps = np.array([float(p.pts * p.time_base) for p in file.demux() if p.pts is not None])
    assert np.diff(stamps).min() > -0.6


def test_odd_size_is_made_even(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mp4", (51, 67)) as out:
        out.write(torch.rand(2, 3, 51, 67))
    assert probe(tmp_path / "a.mp4").size == (52, 68)


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(RuntimeError, match="half way"), Writer(path, (48, 64)) as out:
        out.write(numbered(0))
        raise RuntimeError("half way")
    with pytest.raises(InputError, match="no frame"), Writer(path, (48, 64)):
        pass
    with pytest.raises(ValueError, match="the file is"), Writer(path, (48, 64)) as out:
        out.write(torch.rand(1, 3, 40, 64))
    with pytest.raises(InputError, match="cannot write"):
        Writer(tmp_path / "a.xyz", (48, 64))
    with pytest.raises(InputError, match="no sound"):
        Writer(path, (48, 64), audio=steady(tmp_path / "silent.mp4", seconds=0.2))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Writer(tmp_path / "file" / "a.mp4", (48, 64))
    assert {p.name for p in tmp_path.iterdir()} == {"silent.mp4", "file"}


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
import numpy as np
from vivavoce.media import Writer
from vivavoce.types import InputError
random = np.random.default_rng(0)
try:
    with Writer(sys.argv[1], (256, 256)) as out:
        for _ in range(60):
            out.write(random.integers(0, 255, (1, 256, 256, 3), dtype=np.uint8))
except InputError as error:
    sys.exit(0 if "full" in str(error) else str(error))
sys.exit("nothing was noticed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX's")
def test_full_disk_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_write_audio(tmp_path: Path) -> None:
    wave = torch.from_numpy(tone(1, 16000)[0])
    assert write_audio(tmp_path / "a.wav", wave.split(999)) == 16000
    assert float((audio(tmp_path / "a.wav") - wave).abs().max()) < 1e-4


# ---- pictures ----


def test_pictures_are_seen_as_meant(tmp_path: Path) -> None:
    base = np.zeros((20, 30, 3), np.uint8)
    base[:, :15] = (200, 40, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(base).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(base, -1))
    clear = np.dstack([base, np.full((20, 30), 255, np.uint8)])
    clear[:, 15:, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png")
    seen = read_image(tmp_path / "clear.png")
    assert (seen[:, 15:] == 255).all() and np.array_equal(seen[:, :15], base[:, :15])
    deep = (np.linspace(0, 65535, 600).reshape(20, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    grey = read_image(tmp_path / "deep.png")
    assert grey.shape == (20, 30, 3) and np.abs(grey[..., 0] - deep / 257.0).max() <= 1
    Image.fromarray(base).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "print.jpg").astype(int) - base).mean() < 6
    Image.fromarray(base).convert("L").save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (20, 30, 3)
    table = Image.fromarray(base).quantize(4)
    table.save(tmp_path / "palette.png", transparency=table.getpixel((29, 0)))
    assert (read_image(tmp_path / "palette.png")[:, 16:] == 255).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest resets the filters
def test_pictures_that_are_none(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    write_image(good, torch.rand(3, 64, 64))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    for name in ("cut.png", "text.jpg", "empty.jpg", "folder.jpg", "bomb.png", "nothing.png"):
        with pytest.raises(InputError) as told:
            read_image(tmp_path / name)
        assert name in str(told.value) and "\n" not in str(told.value)


def test_pictures_written_whole(tmp_path: Path) -> None:
    image = torch.rand(3, 31, 45)
    write_image(tmp_path / "in" / "a.png", image)
    assert np.abs(read_image(tmp_path / "in" / "a.png") / 255 - image.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    write_image(tmp_path / "a.png", torch.rand(4, 8, 8))
    assert Image.open(tmp_path / "a.png").mode == "RGBA"
    with pytest.raises(InputError):
        write_image(tmp_path / "a.unknown", image)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.png", "a.png"]


@pytest.mark.real
def test_recordings(shared_data: Path) -> None:
    for name, count, size in (("video/sadtalker_hdtf_a.mp4", 200, (512, 512)), ("video/liveportrait_d10.mp4", 373, (512, 512))):
        assert sum(1 for _ in frames(shared_data / name)) == count and probe(shared_data / name).size == size
    mpeg = next(iter(sorted((shared_data / "grid_multi").glob("*.mpg"))))
    assert sum(1 for _ in frames(mpeg)) == 75
    assert abs(len(audio(mpeg)) - 75 * 640) < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="locks of this kind are POSIX's")
def test_two_writers_of_one_film(tmp_path: Path) -> None:
    """The second is refused and takes nothing of the first's."""
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    with Writer(tmp_path / "a.mp4", (64, 64)) as first:
        first.write(picture)
        with pytest.raises(InputError, match="another run is writing this film"):
            Writer(tmp_path / "a.mp4", (64, 64))
        first.write(picture)
    assert len(list(frames(tmp_path / "a.mp4"))) == 2
    with Writer(tmp_path / "a.mp4", (64, 64)) as again:
        again.write(picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_a_frame_is_converted_alike_with_what_was_prepared_for_another(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with Writer(path, (48, 64)) as out:
        out.write(np.stack([numbered(k) for k in range(8)]))
    with av.open(str(path)) as file:
        decoded = list(file.decode(video=0))
    whole = [f.reformat(format="rgb24", interpolation=EXACT).to_ndarray() for f in decoded]
    small = [f.reformat(width=32, height=24, format="rgb24", interpolation=EXACT).to_ndarray() for f in decoded]
    for k, frame in enumerate(decoded):  # sizes in turn: nothing of the one before is left
        assert np.array_equal(converted(frame, "rgb24").to_ndarray(), whole[k])
        assert np.array_equal(converted(frame, "rgb24", width=32, height=24).to_ndarray(), small[k])
    with ThreadPoolExecutor(4) as pool:  # each thread has what it needs for itself
        assert all(map(np.array_equal, pool.map(lambda f: converted(f, "rgb24").to_ndarray(), decoded * 8), whole * 8))
