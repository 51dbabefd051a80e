"""The columns of the table: what each figure is called, how many digits it has, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

SYNTHESISED, PLATE, PASTED = "synthesised", "synthesised, plate", "pasted"
VERSIONS = {
    SYNTHESISED: "the whole frame made by the method, against the original frame",
    PLATE: "the same frames against the original over the background plate, the lineage's reference",
    PASTED: "the original put back outside the head, against the original; most published tables do this",
}


@dataclass(frozen=True)
class Column:
    """One figure. `better`: 1 higher, -1 lower, 0 nearer to the ground truth's or neither."""

    key: str
    title: str
    digits: int
    better: int
    what: str


FIGURES = (
    Column("psnr", "PSNR dB", 2, 1, "peak signal-to-noise ratio of the full frame"),
    Column("ssim", "SSIM", 4, 1, "structural similarity, Gaussian window of 11 px"),
    Column("ms_ssim", "MS-SSIM", 4, 1, "the same at five scales; frames of 161 px and more"),
    Column("lpips", "LPIPS", 4, -1, "version 0.1, AlexNet"),
    Column("lmd", "LMD px", 2, -1, "20 points of the mouth, centred, px at the evaluated size (ER-NeRF's)"),
    Column("lmd_eyes", "LMD eyes px", 2, -1, "the same of the 12 points of the eyes (DynTet's second)"),
    Column("m_lmd", "M-LMD", 2, -1, "mouth, px of a crop of 256 px (EAT's)"),
    Column("f_lmd", "F-LMD", 2, -1, "all 68 points, px of a crop of 256 px (EAT's)"),
    Column("lvd", "LVD px", 2, -1, "difference of the 68 points' velocities, px a frame"),
    Column("mouth", "mouth r", 2, 1, "correlation over time of the lips' opening with the original's"),
    Column("csim", "CSIM", 3, 1, "cosine of face embeddings with the original's"),
    Column("blendshapes", "blendshape error", 3, -1, "mean absolute difference of 52 expression scores; not the field's AUE"),
    Column("cpbd", "CPBD", 3, 0, "sharpness without a reference"),
    Column("blinks", "blinks/min", 1, 0, "to be held against the ground truth's"),
    Column("jitter", "jitter px", 2, 0, "trembling of the landmarks, as px of noise; the detector's own is in it"),
    Column("av", "A/V ms", 0, 0, "sound after the lips, from the clip itself; blank where it is not sure"),
    Column("drift", "A/V drift ms/min", 1, 0, "by how much the sound falls behind the lips; clips of 20 s and more"),
    Column("silence", "silence motion", 2, 0, "lips in silence, as a share of their motion in speech"),
    Column("lse_c", "LSE-C", 3, 1, "lip-sync confidence, SyncNet of its authors"),
    Column("lse_d", "LSE-D", 3, -1, "lip-sync distance, SyncNet of its authors"),
    Column("expert_c", "expert C", 3, 1, "confidence of the lip expert that --expert names; not LSE"),
    Column("expert_d", "expert D", 3, -1, "distance of the lip expert that --expert names; not LSE"),
    Column("fid", "FID", 2, -1, "Inception of 2015-12-05; asked for with --fid"),
    Column("fvd", "FVD", 1, -1, "asked for with --fvd FILE, stretches of 16 frames"),
    Column("lost", "faces lost", 0, -1, "frames in which no face is found"),
)
COSTS = (
    Column("frames", "N", 0, 0, "frames"),
    Column("minutes", "training min", 1, -1, "minutes of training, of log.csv"),
    Column("steps", "steps", 0, 0, "of training"),
    Column("gigabytes", "training GPU GB", 1, -1, "the most that training needed of the GPU at any time, of log.csv"),
    Column("megabytes", "model MB", 1, -1, "model.safetensors"),
    Column("fps", "frames/s", 1, 1, "drawing alone, on the machine named"),
)
BY_KEY = {c.key: c for c in (*FIGURES, *COSTS)}


def shown(column: Column, value: float | None) -> str:
    """As the tables have it; blank where there is none."""
    return "" if value is None else f"{value:.{column.digits}f}"
