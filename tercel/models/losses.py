"""Element-wise losses: classification from logits, boxes from corners, distances as distributions.

None of them reduces: which positives count, and by what the sum is divided, is the head's business. All are computed
in float32 (float64 stays), whatever autocast does, since half precision loses small probabilities and pixel
coordinates. All are >= 0 and 0 at perfection, soft targets included: where the published form bottoms out at the
target's own entropy, that constant is subtracted, which leaves the gradient as published. Targets get no gradient.

Shape legend: N boxes; 4 = (x1, y1, x2, y2) in px or the four sides; ... any shape, the same for both arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tercel.core.finding import TercelError

BoxLoss = Literal["iou", "giou", "diou", "ciou", "smooth_l1"]
TINY = 1e-4  # floor of areas and sides in px^2 and px: an empty union gives overlap 0, and slopes stay moderate
SIDE = 1.0  # px; truths narrower than this count as this wide in the normalised smooth L1


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy less the target's entropy: the divergence KL(t || p), p = sigmoid(logits), t in 0..1.

    -t log p - (1 - t) log(1 - p) + t log t + (1 - t) log(1 - t). Equals plain BCE for targets 0 and 1. A target
    outside 0..1 gives NaN, which the training loop refuses.
    """
    with full_precision(logits):
        x, t = pair(logits, target)
        return _at_least_zero(_cross_entropy(x, t) - _entropy(t))


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss, a_t (1 - p_t)^gamma CE (Lin et al. 2017, eq. 5), for soft targets too.

    With t in 0..1: (alpha t + (1 - alpha)(1 - t)) |t - p|^gamma CE(p, t), which is Lin's at t = 0 and t = 1 and 0 at
    p = t. The usual (1 - p_t) with p_t = p t + (1 - p)(1 - t) is neither 0 nor lowest there when t is soft.
    """
    with full_precision(logits):
        x, t = pair(logits, target)
        balance = alpha * t + (1 - alpha) * (1 - t)
        return balance * power((t - x.sigmoid()).abs(), gamma) * _cross_entropy(x, t)


def quality_focal(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss, |q - p|^beta CE(p, q) (Li et al. 2020, "Generalized Focal Loss", eq. 2); 0 at p = q."""
    with full_precision(logits):
        x, q = pair(logits, quality)
        return power((q - x.sigmoid()).abs(), beta) * _cross_entropy(x, q)


def varifocal(logits: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (Zhang et al. 2021, eq. 2): q CE(p, q) where q > 0, alpha p^gamma CE(p, 0) where q = 0.

    The positives' part has q times the target's entropy subtracted, hence is 0 at p = q with the same gradient.
    """
    with full_precision(logits):
        x, q = pair(logits, quality)
        positive = q * _at_least_zero(_cross_entropy(x, q) - _entropy(q))
        negative = alpha * power(x.sigmoid(), gamma) * F.softplus(x)
        return torch.where(q == 0, negative, positive)


CLASS_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "focal": focal,
    "quality": quality_focal,
    "varifocal": varifocal,
}
"""The names of `BoxHead.class_loss`: (logits [...], target [...] in 0..1) -> loss [...]."""


def box_loss(kind: BoxLoss, pred: Tensor, target: Tensor) -> Tensor:
    """Loss [N] of predicted boxes [N,4] against truth [N,4], both (x1, y1, x2, y2) in px.

    - iou: 1 - IoU (Yu et al. 2016 in the linear form of Rezatofighi et al.). Boxes apart get no gradient.
    - giou: 1 - IoU + (hull - union) / hull (Rezatofighi et al. 2019).
    - diou: 1 - IoU + centre distance^2 / hull diagonal^2 (Zheng et al. 2020, eq. 7).
    - ciou: diou + a v, v = 4/pi^2 (atan(w/h of truth) - atan(w/h))^2, a = v / (1 - IoU + v) held constant in the
      gradient (Zheng et al. 2020, eq. 8 to 11).
    - smooth_l1: the sum over the four sides of smooth L1 (beta 0.1) of the error as a share of the truth's width (x)
      or height (y): scale-free, and about as large as 1 - IoU for small shifts. Truths narrower than 1 px count as
      1 px, so that an empty one has a finite gradient.

    Values of the IoU kinds lie in 0..1 (iou), 0..2 (giou, diou) and 0..3 (ciou). An empty or inverted box has
    area 0 and IoU 0, also with itself; the gradient is finite everywhere.
    """
    with full_precision(pred):
        p, t = pair(pred, target)
        if kind == "smooth_l1":
            size = (t[:, 2:] - t[:, :2]).clamp_min(SIDE).repeat(1, 2)
            return smooth_l1(p / size, t / size, 0.1).sum(1)
        if kind not in ("iou", "giou", "diou", "ciou"):
            raise TercelError(f"unknown box loss {kind!r}", "use iou, giou, diou, ciou or smooth_l1")
        iou, union = _overlap(p, t)
        if kind == "iou":
            return 1 - iou
        hull = torch.maximum(p[:, 2:], t[:, 2:]) - torch.minimum(p[:, :2], t[:, :2])  # [N,2]
        if kind == "giou":
            area = hull.clamp_min(0).prod(1)
            return 1 - iou + (area - union).clamp_min(0) / area.clamp_min(TINY)
        distance = ((p[:, :2] + p[:, 2:] - t[:, :2] - t[:, 2:]) / 2).square().sum(1)
        loss = 1 - iou + distance / hull.square().sum(1).clamp_min(TINY)
        return loss if kind == "diou" else loss + _shape_term(p, t, iou)


def box_iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """IoU [N] in 0..1 of the pairs (a[i], b[i]) of boxes [N,4]; 0 where the union is empty."""
    with full_precision(a):
        return _overlap(*pair(a, b))[0]


def smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth L1 (Girshick 2015, eq. 3): d^2 / (2 beta) where d = |pred - target| < beta, else d - beta / 2.

    The slope never exceeds 1. beta > 0 is in the unit of the arguments.
    """
    if beta <= 0:
        raise TercelError(f"smooth L1 needs beta > 0, not {beta}")
    with full_precision(pred):
        p, t = pair(pred, target)
        d = (p - t).abs()
        return torch.where(d < beta, d * d / (2 * beta), d - beta / 2)


def dfl(logits: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss [N,4] of logits [N,4,bins] for distances [N,4] in bin units, within 0..bins-1.

    Cross entropy of softmax(logits) with the distribution that has weight on the two bins around the target only, so
    that its mean is the target (Li et al. 2020, "Generalized Focal Loss", eq. 6), less that distribution's entropy.

    Raises:
        TercelError: a target outside 0..bins-1 (or NaN), fewer than two bins, shapes that do not fit.
    """
    bins = logits.shape[-1]
    if bins < 2 or logits.shape[:-1] != target.shape:
        raise TercelError(
            f"dfl needs logits [N,4,bins >= 2] and target [N,4], got {[*logits.shape]}, {[*target.shape]}"
        )
    with full_precision(logits):
        x, t = _cast(logits), _cast(target.detach())
        if not bool(((t >= 0) & (t <= bins - 1)).all()):
            raise TercelError(
                f"dfl target outside 0..{bins - 1}", "leave out or clamp such sides before, and count them"
            )
        left = t.floor().clamp_max(bins - 2)
        upper = (t - left).to(x.dtype)  # weight of the right bin
        at = left.long().unsqueeze(-1)
        log_p = x.log_softmax(-1)
        lower_log, upper_log = log_p.gather(-1, at).squeeze(-1), log_p.gather(-1, at + 1).squeeze(-1)
        return _at_least_zero(-(1 - upper) * lower_log - upper * upper_log - _entropy(upper))


# -- helpers --------------------------------------------------------------------------------------------------


def full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _cast(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in full precision and of one shape (broadcasting would hide a mistake); the target without gradient."""
    if pred.shape != target.shape:
        raise TercelError(
            f"loss of shape {[*pred.shape]} against target of shape {[*target.shape]}: they must be equal"
        )
    x = _cast(pred)
    return x, target.detach().to(x.dtype)


def _cross_entropy(x: Tensor, t: Tensor) -> Tensor:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), without overflow or cancellation."""
    return F.binary_cross_entropy_with_logits(x, t, reduction="none")


def _entropy(t: Tensor) -> Tensor:
    """Entropy in nats of a coin with probability t; 0 at 0 and 1, NaN outside."""
    return -torch.xlogy(t, t) - torch.xlogy(1 - t, 1 - t)


def _at_least_zero(loss: Tensor) -> Tensor:
    """Rounding can leave a divergence at -1e-8: lift the value, keep the gradient."""
    return loss + (loss.clamp_min(0) - loss).detach()


def power(x: Tensor, exponent: float | Tensor) -> Tensor:
    """x^exponent for x >= 0, with 0 and slope 0 at x = 0 (an exponent below 1 would have slope inf, and then NaN)."""
    some = x > 0
    return torch.where(some, torch.where(some, x, 1.0).pow(exponent), 0.0)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU [N] and union [N] of pairs of boxes [N,4]."""
    width_height = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    inter = width_height.clamp_min(0).prod(1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).clamp_min(0).prod(1), (b[:, 2:] - b[:, :2]).clamp_min(0).prod(1)
    union = area_a + area_b - inter
    return inter / union.clamp_min(TINY), union


def _shape_term(p: Tensor, t: Tensor, iou: Tensor) -> Tensor:
    """CIoU's a v [N]: how far apart the two aspect ratios are, weighted the more the better the overlap."""

    def angle(box: Tensor) -> Tensor:
        size = (box[:, 2:] - box[:, :2]).clamp_min(TINY)
        return torch.atan2(size[:, 0], size[:, 1])

    v = 4 / math.pi**2 * (angle(t) - angle(p)).square()
    weight = (v / (1 - iou + v).clamp_min(1e-9)).detach()
    return weight * v
