"""A checkpoint decides the sizes that data decided when it was made: Gaussians, pixels, features of speech, rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def take_sizes(method: nn.Module) -> None:
    """From now on `method.load_state_dict` gives every parameter and buffer the shape it has in the checkpoint. What a checkpoint of
    an earlier version lacks keeps the value it was built with."""
    method.register_load_state_dict_pre_hook(_fit)


def _fit(method: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, part in method.named_modules():
        path = f"{prefix}{name}." if name else prefix
        kept = (b for b in part.named_buffers(recurse=False) if b[0] not in part._non_persistent_buffers_set)
        for key, old in [*part.named_parameters(recurse=False), *kept]:
            new: Tensor = state.setdefault(path + key, old.detach())
            if new.shape == old.shape:
                continue
            room = torch.empty(new.shape, dtype=old.dtype, device=old.device)
            learns = old.requires_grad or (not old.numel() and new.numel() > 0)
            setattr(part, key, nn.Parameter(room, learns) if isinstance(old, nn.Parameter) else room)
