"""Data sets by name: each laid out as its vendor gives it out, read, and refused where it is something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vivavoce import media
from vivavoce.data.layouts import LAYOUTS, Recording, find, recordings, said
from vivavoce.data.layouts.splits import assigned
from vivavoce.types import InputError


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film of two frames."""
    path = tmp_path_factory.mktemp("tiny") / "a.mp4"
    with media.Writer(path, (16, 16)) as writer:
        writer.write(np.zeros((2, 16, 16, 3), np.uint8))
    return path.read_bytes()


Put = Callable[..., None]  # names of films below the data set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.fixture
def put(root: Path, tiny: bytes) -> Put:
    def write(*names: str, text: str | None = None) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(tiny if text is None else text.encode())

    return write


def read(name: str, root: Path) -> dict[str, Recording]:
    found = recordings(f"{name}:{root}")
    assert [r.id for r in found] == sorted(r.id for r in found)
    assert all(Path(r.video).exists() for r in found)
    return {r.id: r for r in found}


def splits(found: dict[str, Recording]) -> dict[str, str]:
    return {name: r.split for name, r in found.items()}


def test_lrs2(put: Put, root: Path) -> None:
    base, one, two = "mvlrs_v1", "5535415699068794046", "6330311066473698535"
    put(f"{base}/main/{one}/00001.mp4", f"{base}/main/{two}/00011.mp4", f"{base}/main/{two}/00012.mp4", f"{base}/pretrain/{one}/00007.mp4")
    put(f"{base}/main/{one}/00001.txt", text="Text:  WHEN YOU'RE COOKING\nConf:  4\n")
    put(
        f"{base}/pretrain/{one}/00007.txt",
        text="Text:  OH GOD\nConf:  3\n\nWORD START END ASDSCORE\nOH 0.10 0.37 11.3\nGOD 0.37 0.80 9.1\n",
    )
    put("train.txt", text=f"{one}/00001\n")
    put("test.txt", text=f"{two}/00011 NF\n{two}/00012 MV\n")
    found = read("lrs2", root)
    assert splits(found) == {
        f"main/{one}/00001": "train", f"main/{two}/00011": "test", f"main/{two}/00012": "test", f"pretrain/{one}/00007": "train",
    }  # fmt: skip
    assert found[f"main/{one}/00001"].identity == one and found[f"main/{one}/00001"].speaker
    assert said(found[f"main/{one}/00001"]) == ("WHEN YOU'RE COOKING", [])
    assert said(found[f"pretrain/{one}/00007"]) == ("OH GOD", [("OH", 0.1, 0.37), ("GOD", 0.37, 0.8)])
    assert read("LRS2", root / base)[f"main/{one}/00001"].split == "", "two people: a part of each clip is held out"


def test_lrs2_whose_lists_name_what_is_not_there(put: Put, root: Path) -> None:
    put("mvlrs_v1/main/1/00001.mp4")
    put("train.txt", text="2/00001\n")
    with pytest.raises(InputError, match="of those in its train"):
        recordings(f"lrs2:{root}")
    put("train.txt", text="1/00001\n2/00001\n")  # a part that is missing is found out, and told, when its film is opened
    assert [r.id for r in recordings(f"lrs2:{root}")] == ["main/1/00001", "main/2/00001"]


def test_lrs3(put: Put, root: Path) -> None:
    put(*(f"{part}/talk{k}/50001.mp4" for k in range(4) for part in ("pretrain", "trainval")), "test/other/00001.mp4")
    put(
        "trainval/talk0/50001.txt",
        text="Text:  THE FIRST\nConf:  5\nRef:  talk0\n\nFRAME \tX \tY \tW \tH \n000000 \t0.4 \t0.2 \t0.1 \t0.2\n",
    )
    found = read("lrs3", root)
    assert found["test/other/00001"].split == "test"
    assert said(found["trainval/talk0/50001"]) == ("THE FIRST", [])
    held = {r.identity for r in found.values() if r.split == "val"}
    assert len(held) == 1 and not held & {r.identity for r in found.values() if r.split == "train"}


def test_lrw(put: Put, root: Path) -> None:
    put(*(f"lipread_mp4/ABOUT/{s}/ABOUT_0000{k}.mp4" for k, s in enumerate(("train", "val", "test"), 1)))
    found = read("lrw", root)
    assert splits(found) == {f"ABOUT/{s}/ABOUT_0000{k}": s for k, s in enumerate(("train", "val", "test"), 1)}
    assert found["ABOUT/val/ABOUT_00002"].text == "about" and len({r.identity for r in found.values()}) == 3


def test_grid(put: Put, root: Path) -> None:
    put(*(f"s{k}/video/mpg_6000/bbaf2n.mpg" for k in range(1, 13)), "s1/video/mpg_vcd/bbaf2n.mpg", "s2/video/mpg_6000/swwz9a.mpg")
    put("s1/align/bbaf2n.align", text="0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 74500 sil\n")
    found = read("grid", root)
    assert len(found) == 13 and found["s1/bbaf2n"].video.endswith("s1/video/mpg_6000/bbaf2n.mpg")
    assert found["s2/swwz9a"].text == "set white with z nine again" and found["s2/swwz9a"].identity == "s2"
    assert said(found["s1/bbaf2n"]) == ("bin blue at f two now", [("bin", 0.95, 1.18), ("blue", 1.18, 1.36)])
    by = {split: {r.identity for r in found.values() if r.split == split} for split in ("train", "val", "test")}
    assert [len(v) for v in by.values()] == [10, 1, 1] and not by["train"] & (by["val"] | by["test"])
    alone = read("grid", root / "s2" / "video")  # one speaker's folder, whatever it is called
    assert set(alone) == {"video/bbaf2n", "video/swwz9a"} and splits(alone) == {"video/bbaf2n": "", "video/swwz9a": ""}


def test_voxceleb(put: Put, root: Path) -> None:
    put("dev/mp4/id00012/2DLq_Kkc1r8/00016.mp4", "dev/aac/id00012/2DLq_Kkc1r8/00016.m4a", "test/mp4/id00017/01dfn2spqyE/00001.mp4")
    found = read("vox2", root)
    assert splits(found) == {"id00012/2DLq_Kkc1r8/00016": "train", "id00017/01dfn2spqyE/00001": "test"}
    assert found["id00012/2DLq_Kkc1r8/00016"].audio.endswith("aac/id00012/2DLq_Kkc1r8/00016.m4a")


def test_crops_of_the_first_order_motion_model(put: Put, root: Path) -> None:
    put("train/id10001#7w0IBEWc9Qw#000993#001143.mp4", "test/id10280#NXjT3732Ekg#001093#001192.mp4")
    found = read("voxceleb2", root)
    assert splits(found) == {"id10001/7w0IBEWc9Qw/000993/001143": "train", "id10280/NXjT3732Ekg/001093/001192": "test"}


def test_mead(put: Put, root: Path) -> None:
    put("M003/video/front/angry/level_3/001.mp4", "M003/audio/angry/level_3/001.m4a", "W009/video/left_30/neutral/level_1/002.mp4")
    found = read("mead", root)
    one = found["M003/front/angry/level_3/001"]
    assert one.identity == "M003" and one.labels == {"emotion": "angry", "level": "3", "view": "front"}
    assert one.audio == str(root / "M003/audio/angry/level_3/001.m4a") and found["W009/left_30/neutral/level_1/002"].audio == ""


def test_crema_d(put: Put, root: Path) -> None:
    put("VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1002_IEO_HAP_HI.flv", "VideoFlash/notes.flv")
    found = read("crema-d", root)
    assert set(found) == {"1001/1001_DFA_ANG_XX", "1002/1002_IEO_HAP_HI"}
    assert found["1001/1001_DFA_ANG_XX"].audio.endswith(".wav") and found["1001/1001_DFA_ANG_XX"].text == "Don't forget a jacket"
    assert found["1002/1002_IEO_HAP_HI"].labels == {"emotion": "happy", "level": "high"}


def test_hdtf_from_its_lists(put: Put, root: Path) -> None:
    put("HDTF_dataset/WRA_annotion_time.txt", text="MikeCrapo.mp4 00:01-01:30\nMikeJohanns1.mp4 00:12-02:55 1:00:00-1:00:10 \n")
    put("HDTF_dataset/WRA_crop_wh.txt", text="MikeCrapo_0.mp4 573 780 10 780\nMikeJohanns1_0.mp4 614 784 16 784\n")
    put("HDTF_dataset/WRA_resolution.txt", text="MikeCrapo.mp4 1080\nMikeJohanns1.mp4 1080\n")
    put("HDTF_dataset/RD_annotion_time.txt", text="Radio34.mp4 00:02-00:30 00:40-00:50\n")
    put("videos/MikeCrapo.mp4", "videos/WRA_MikeJohanns1.mp4", "clips/Radio34_1.mp4")
    found = read("hdtf", root)
    assert set(found) == {"MikeCrapo/WRA_MikeCrapo_0", "MikeJohanns/WRA_MikeJohanns1_0", "Radio34/RD_Radio34_1"}
    one = found["MikeCrapo/WRA_MikeCrapo_0"]
    assert (one.span, one.box, one.box_of) == ((1.0, 90.0), (573, 10, 573 + 780, 10 + 780), (1080, 0))
    assert found["Radio34/RD_Radio34_1"].span is None and found["Radio34/RD_Radio34_1"].box is None


def test_hdtf_cut_by_others(put: Put, root: Path) -> None:
    put("WRA_MikeCrapo0_000.mp4", "WRA_MikeCrapo1_000.mp4", "RD_Radio1_000.mp4")
    assert [r.identity for r in read("hdtf", root).values()] == ["MikeCrapo", "MikeCrapo", "Radio1"]


def test_vfhq(put: Put, root: Path) -> None:
    meta = "CLIP: 1\nH 1080\nW 1920\nFPS 29.97\n\n15 0.9 100 200 300 400\nCROP 440 20 1080 660\n"
    put("meta_info/Clip+G0DGRma_p48+P1+C0+F300-601.txt", "meta_info/Clip+aaaaaaaaaaa+P0+C2+F10-20.txt", text=meta)
    put("youtube/G0DGRma_p48.mp4", "clips/Clip+aaaaaaaaaaa+P0+C2.mp4")
    found = read("vfhq", root)
    one = found["G0DGRma_p48/Clip+G0DGRma_p48+P1+C0+F300-601"]
    assert one.span == pytest.approx((301 / 29.97, 600 / 29.97)) and one.box == (440, 20, 1080, 660) and one.box_of == (1080, 1920)
    assert found["aaaaaaaaaaa/Clip+aaaaaaaaaaa+P0+C2+F10-20"].span is None and one.labels["person"] == "P1"
    put("meta_info/Clip+G0DGRma_p48+P1+C0+F300-601.txt", text="H 1080\n")
    with pytest.raises(InputError, match="lacks H, W, FPS or CROP"):
        recordings(f"vfhq:{root}")


def test_celebv_hq(put: Put, root: Path) -> None:
    clip = {"ytb_id": "M2Ohb0FAaJU", "duration": {"start_sec": 81.62, "end_sec": 86.17}, "version": "v0.1"}
    clip["bbox"] = {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922}
    clip["attributes"] = {"appearance": [0, 1], "action": [1], "emotion": {"sep_flag": False, "labels": "neutral"}}
    put("celebvhq_info.json", text=json.dumps({"meta_info": {}, "clips": {"M2Ohb0FAaJU_1": clip, "gone_0": clip | {"ytb_id": "gone"}}}))
    put("raw/M2Ohb0FAaJU.mp4")
    (one,) = read("celebv-hq", root).values()
    assert one.span == (81.62, 86.17) and one.labels["emotion"] == "neutral"
    assert one.box == pytest.approx((0.1764, 0.0, 0.7122, 0.9015)) and one.box_of == (1, 1)
    put("processed/M2Ohb0FAaJU_1.mp4")
    (one,) = read("celebvhq", root).values()
    assert one.span is None and one.video.endswith("processed/M2Ohb0FAaJU_1.mp4")
    put("celebvhq_info.json", text="{}")
    with pytest.raises(InputError, match="list of clips"):
        recordings(f"celebv_hq:{root}")


def test_folders_of_the_lineage_and_of_wav2lip_and_of_videos(put: Put, root: Path) -> None:
    put("obama/ori_imgs/0.jpg", "obama/aud.wav", "may/ori_imgs/0.jpg", "may/aud.wav", "unfinished/ori_imgs/0.jpg")
    put("may/ori_imgs/0.lms", text="0 0\n" * 68)
    found = read("ad_nerf", root)
    assert set(found) == {"may", "obama"} and found["obama"].landmarks == "" and found["may"].landmarks == str(root / "may/ori_imgs")
    assert set(read("ad-nerf", root / "may")) == {"may"}
    put("pre/anna/00001/audio.wav", "pre/anna/00001/0.jpg", "pre/ben/00002/audio.wav")
    put("pre/filelists/train.txt", text="anna/00001\n")
    assert splits(read("wav2lip", root / "pre")) == {"anna/00001": "train"}
    put("films/anna/1.mp4", "films/anna/2.mov", "films/ben.mp4", "films/ben.wav")
    found = read("videos", root / "films")
    assert [r.identity for r in found.values()] == ["anna", "anna", "ben"] and found["ben"].audio.endswith("ben.wav")
    assert set(read("videos", root / "films" / "ben.mp4")) == {"ben"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_is_refused_with_what_was_looked_for(name: str, root: Path) -> None:
    (root / "holiday.txt").write_text("")
    with pytest.raises(InputError, match=r"does not look like .*: no .*\(there is: holiday.txt\)"):
        recordings(f"{name}:{root}")


def test_names_and_places(root: Path, put: Put) -> None:
    assert find("VoxCeleb") is find("vox2") is LAYOUTS["voxceleb2"]
    for data, told in (
        ("lsr2:x", "did you mean lrs2"), ("hdft:x", "did you mean hdtf"), ("qqqq:x", "vivavoce list --data"),
        ("lrs2", "is not NAME:PATH"), ("lrs2:", "is not NAME:PATH"), (f"lrs2:{root}/gone", "no such folder"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            recordings(data)
    put("a.mp4", "a.mov")
    with pytest.raises(InputError, match="are both a of videos"):
        recordings(f"videos:{root}")


def test_nobody_is_in_two_splits_and_the_draw_is_always_the_same() -> None:
    many = [Recording(f"{who}/{k}", "", f"p{who}") for who in range(60) for k in range(3)]
    drawn = assigned(many)
    by = {split: {r.identity for r in drawn if r.split == split} for split in ("train", "val", "test")}
    assert [len(v) for v in by.values()] == [50, 5, 5] and not by["train"] & by["val"] and not (by["train"] | by["val"]) & by["test"]
    assert {r.id: r.split for r in assigned(many[::-1])} == {r.id: r.split for r in drawn}
    # a person of the data set's own test stays out of the rest
    own = [Recording("a", "", "anna", split="test"), Recording("b", "", "anna"), *many]
    assert assigned(own)[1].split == "test" and sum(r.split == "test" for r in assigned(own)) == 2
    one = assigned([Recording(f"{k:02d}", "", "anna") for k in range(23)])
    assert [r.id for r in one if r.split == "val"] == ["10", "21"]
