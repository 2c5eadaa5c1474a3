"""Contrastive losses of CLIP, PLI and TSCIR, over rows of features whose positives lie on the diagonal."""

import torch
import torch.nn.functional as F
from torch import Tensor


def one_way_nce(logits_BB: Tensor) -> Tensor:
    """Mean cross-entropy of each row against its diagonal entry."""
    return F.cross_entropy(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device))


def symmetric_nce(a_BD: Tensor, b_BD: Tensor, scale: Tensor | float) -> Tensor:
    """NCE(a, b) = half of (a -> b) + (b -> a); unit rows, ``scale`` = 1 / tau."""
    logits = scale * a_BD @ b_BD.T
    return (one_way_nce(logits) + one_way_nce(logits.T)) / 2


def soft_text_alignment(captions_BD: Tensor, students_BD: Tensor, teachers_BD: Tensor, tau: float) -> Tensor:
    """KL(teacher || student), batch mean: a caption should rank the students as it ranks the teachers (TSCIR, STA)."""
    # In log space throughout: the released code takes the log of a softmax, which is -inf where that underflows.
    teacher = F.log_softmax(captions_BD @ teachers_BD.T / tau, dim=1)
    student = F.log_softmax(captions_BD @ students_BD.T / tau, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mixed_negatives(composed_BD: Tensor, targets_BD: Tensor, hardest: int) -> Tensor:
    """[B, K] similarities of each row to its K hardest negatives, each mixed with the positive (TSCIR stage II).

    n_ij = w_ij g_i + (1 - w_ij) g_j is never built: its product with u_i is the same mix of the similarities.
    w is the row-wise min-max of g g^T, so a negative close to the positive takes more of the positive.
    """
    similar = composed_BD @ targets_BD.T
    own = torch.eye(len(similar), dtype=torch.bool, device=similar.device)
    hard, picked = similar.masked_fill(own, -torch.inf).topk(min(hardest, len(similar) - 1), dim=1)
    # The diagonal (1) is each row's maximum, so the positive itself would get the weight 1.
    among = targets_BD @ targets_BD.T
    low, high = among.amin(dim=1, keepdim=True), among.amax(dim=1, keepdim=True)
    weight = ((among - low) / (high - low + 1e-8)).gather(1, picked)
    return weight * similar.diagonal()[:, None] + (1 - weight) * hard


def mixed_negatives_nce(composed_BD: Tensor, targets_BD: Tensor, tau: float, hardest: int, tau_mixed: float) -> Tensor:
    """Cross-entropy composed -> target over the batch's targets and the mixed hard negatives."""
    mixed = mixed_negatives(composed_BD, targets_BD, hardest) / tau_mixed
    return nce_with_extra_negatives(composed_BD @ targets_BD.T / tau, mixed)


def nce_with_extra_negatives(logits_BB: Tensor, more_BK: Tensor) -> Tensor:
    """Cross-entropy of each row's diagonal entry over the row and ``more_BK``."""
    logits = torch.cat([logits_BB, more_BK], dim=1)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
