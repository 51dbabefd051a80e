"""Points drawn back to what was seen: locally linear embedding (Roweis and Saul, Science 2000), as GeneFace (ICLR 2023) uses it."""

from __future__ import annotations

import torch
from torch import Tensor

STIFF = 1e-2  # share of the Gram matrix's trace on its diagonal: neighbours that lie in a plane have no single answer


def weights(points: Tensor, bank: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:  # [T,E], [N,E] -> [T,K], [T,K] int64
    """Weights, none below 0, that sum to 1, and rows of the bank: the combination of each point's nearest rows that lies closest to it.

    The least squares answer with its negative weights set to 0, so that what comes out lies between rows that were seen.
    """
    nearest = torch.cdist(points, bank).topk(min(neighbours, len(bank)), largest=False).indices
    away = bank[nearest] - points[:, None]
    gram = away @ away.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-9)
    gram = gram + (STIFF * size)[:, None, None] * torch.eye(gram.shape[1], device=gram.device)
    found = torch.linalg.solve(gram, torch.ones_like(gram[:, :, :1]))[:, :, 0]
    found = (found / found.sum(1, keepdim=True)).clamp_min(0)
    return found / found.sum(1, keepdim=True), nearest


def project(points: Tensor, bank: Tensor, neighbours: int, counts: Tensor | float = 1.0) -> Tensor:  # [T,E], [N,E] -> [T,E]
    """Each point's combination of its nearest rows of the bank, a point of the bank itself nearly; `counts` [E] says how much each
    number counts in what is near."""
    share, nearest = weights(points * counts, bank * counts, neighbours)
    return (share[:, :, None] * bank[nearest]).sum(1)
