"""How a run is trained, whatever the method: the options of `vivavoce train` beside the method's own settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class How:
    """How to train, whatever the method."""

    precision: str = "float32"  # float32, or bf16: networks in half precision where torch holds it safe
    accumulate: int = 1  # parts that a step's rows are worked through in, for less memory
    average: float = 0.0  # decay of an average of the weights, which is what the run then speaks with; 0.999 is usual; 0: the last weights
    check_every: int = -1  # steps between looks at the held-out rows; 0: never; -1: eight times in all
    patience: int = 0  # looks without a better loss after which training ends; 0: never
    save_every: float = 60.0  # seconds between checkpoints
    keep_every: int = 0  # steps between checkpoints that stay, in RUN/checkpoints; 0: only the last one
    resume: str = ""  # checkpoint to go on from, instead of the run's last one
    log_every: int = 20  # steps between rows of log.csv
    log: str = ""  # tensorboard, wandb, or both with a comma, beside log.csv
    profile: int = 0  # steps to profile, after twenty of warming up: RUN/profile.txt, RUN/profile.json
    shard: bool = False  # under torchrun: cut large networks up among the processes (FSDP), for models too large for one
