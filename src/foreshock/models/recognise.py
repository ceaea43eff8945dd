"""Recognition: for every step, how likely it is an anomaly, and what should have been there instead.

The same encoder as MOMENT's, read in one direction: a patch sees itself and the patches before it, so that
one pass judges many rows and none of them has read a later one. Two small heads stand on its states: one
tells the next patch (as it should be, not as an anomaly would go on), one weighs each step of a patch by
what the steps before it, in that patch and all earlier ones, let expect. They are trained together with
MOMENT's own masked reconstruction and lie beside its weights, in a file of their own, so that the original
package still reads the checkpoint.

Values are scaled by a context: the steps before the judged ones, so a level shift does not vanish.

Not here: MOMENT itself (moment), training (pretrain), how steps of many KPIs become scores (evidence).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreshock.errors import WeightsError
from foreshock.models import weights
from foreshock.models.moment import Backbone

BEND = 3.0  # deviations up to which a value is taken as it is; beyond, its logarithm grows
HIGHEST = 10.0  # where that ends
LEAST_CHANGE = 0.005  # share of the level below which a deviation is not believed
CLIP = 2.0  # widths of the middle nine tenths outside which the context's outliers are cut
FORBIDDEN = -1e4  # added to the attention of what may not be looked at
WIDTH = 64  # of the head's hidden layer
WIDTHS = (4, 16, 64)  # steps over which movement and level are averaged for the heads
STILL = 1e-4  # movement, in units of the context, that is none
NARROWEST = 0.05  # spread of a forecast, deviations


@dataclass(frozen=True, slots=True)
class Scaled:
    """Series in units of their context."""

    x: Tensor  # (N, L) float32, bent; 0 where nothing was observed yet
    center: Tensor  # (N, 1)
    spread: Tensor  # (N, 1), above 0


def scale_by_context(values: Tensor, observed: Tensor, context: Tensor) -> Scaled:
    """Series in units of the steps before `context`: see `context_scale`, which takes the same.

    Args:
        values: (N, L); what is not observed is never read.
        observed: (N, L) bool.
        context: (N, 1) how many leading steps to measure.
    """
    center, spread = context_scale(values, observed, context)
    return Scaled(scaled(values, observed, center, spread), center, spread)


def scaled(values: Tensor, observed: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """(N, L) float32 in these units, bent; 0 where nothing was observed."""
    return bend(torch.where(observed, (values.double() - center) / spread, 0)).float()


def context_scale(values: Tensor, observed: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the steps before `context` (N, 1), outliers cut first.

    Cut is what lies farther outside the middle nine tenths than CLIP times their width, so that one wild
    value does not make the next hours look calm. Where these nine tenths are one value, nothing is cut: a
    counter that is mostly 0 has its events for a scale.

    Args:
        values: (N, L); what is not observed is never read.
        observed: (N, L) bool.
        context: (N, 1) how many leading steps to measure.
    """
    told = observed & (torch.arange(values.shape[1], device=values.device) < context)
    count = told.sum(1, keepdim=True).clamp(min=1)
    wide = torch.where(observed, values, 0).double()
    ordered = torch.where(told, wide, torch.inf).sort(1).values  # what is not told comes last
    low, high = (ordered.gather(1, ((count - 1) * share).long()) for share in (0.05, 0.95))
    room = CLIP * (high - low)
    room = torch.where(room > 0, room, torch.inf)
    known = torch.where(told, wide.clamp(low - room, high + room), 0)
    center = known.sum(1, keepdim=True) / count
    spread = (torch.where(told, known - center, 0).square().sum(1, keepdim=True) / count).sqrt()
    spread = torch.maximum(spread, LEAST_CHANGE * center.abs()).clamp(min=1e-9)
    return center, spread


def bend(x: Tensor) -> Tensor:
    """Identity up to BEND, then logarithmic, at most HIGHEST; keeps the sign and the order."""
    size = x.abs()
    bent = BEND + torch.log1p((size - BEND).clamp(min=0))
    return torch.where(size <= BEND, x, x.sign() * bent.clamp(max=HIGHEST))


def unbend(x: Tensor) -> Tensor:
    """The way back from `bend`."""
    size = x.abs().clamp(max=HIGHEST)
    return torch.where(size <= BEND, x, x.sign() * (BEND + torch.expm1(size - BEND)))


@dataclass(frozen=True, slots=True)
class Recognised:
    """What the heads say of N series of P patches, in units of the context (bent)."""

    logit: Tensor  # (N, L) of being an anomaly
    expected: Tensor  # (N, L) told from the patches before
    spread: Tensor  # (N, L) of what was told, above 0


class Heads(nn.Module):
    """What to expect of the next patch, and what to think of each of its steps as they come."""

    def __init__(self, d_model: int, patch_len: int) -> None:
        super().__init__()
        self.patch_len = patch_len
        self.start = nn.Parameter(torch.zeros(d_model))  # the state before the first patch
        self.forecast = nn.Linear(d_model, 2 * patch_len)
        self.state = nn.Linear(d_model, WIDTH)
        self.step = nn.Linear(4 * patch_len, WIDTH, bias=False)
        self.moved = nn.Linear(1 + 2 * len(WIDTHS), WIDTH, bias=False)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 1)
        self.register_buffer("past", torch.ones(patch_len, patch_len).tril(), persistent=False)
        nn.init.constant_(self.out.bias, -3.0)

    def forward(self, states: Tensor, patches: Tensor, moved: Tensor) -> Recognised:
        """states (N, P, D) of a one-way encoder, its patches (N, P, patch_len), `movement` (N, L, F)."""
        before = torch.cat([self.start.expand(len(states), 1, -1).to(states), states[:, :-1]], dim=1)
        said = self.weigh(before, patches, moved.reshape(*patches.shape, -1))
        return Recognised(said.logit.flatten(1), said.expected.flatten(1), said.spread.flatten(1))

    def weigh(self, before: Tensor, patches: Tensor, moved: Tensor) -> Recognised:
        """Any patches, from the state before each: (…, D), (…, patch_len), (…, patch_len, F)."""
        told = self.forecast(before).float()
        expected, width = told.split(self.patch_len, -1)
        spread = F.softplus(width) + NARROWEST
        # Detached: what is expected answers to the series alone, not to the labels.
        surprise, width = ((patches - expected) / spread).detach(), spread.detach().log()
        past = cast(Tensor, self.past)  # (step, earlier step)
        mark = torch.eye(self.patch_len, device=patches.device).expand(*patches.shape, self.patch_len)
        seen = torch.cat(
            [patches.unsqueeze(-2) * past, bend(surprise).unsqueeze(-2) * past,
             mark, width.unsqueeze(-2) * past], -1
        )  # fmt: skip
        by_step = self.step(seen) + self.moved(moved)
        hidden = F.gelu(self.state(before).unsqueeze(-2) + by_step)  # (N, P, step, WIDTH)
        hidden = hidden + F.gelu(self.hidden(hidden))
        return Recognised(self.out(hidden).squeeze(-1).float(), expected, spread)


class Recogniser(nn.Module):
    """A MOMENT encoder read in one direction, with the heads of recognition."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = Heads(backbone.geometry.d_model, backbone.geometry.patch_len)

    def forward(self, x: Tensor, attended: Tensor | None = None, first: int = 0) -> Recognised:
        """x (N, L), L whole patches, in units of the context; attended (N, P) bool, False for padding.

        Args:
            first: position of the first patch in the table of positions.
        """
        patches = x.reshape(len(x), -1, self.backbone.geometry.patch_len)
        states = self.backbone.patch_embedding(patches, None, first)
        encoder = self.backbone.encoder
        bias = one_way(encoder.attention_bias(patches.shape[1], attended))
        seen = None if attended is None else attended.repeat_interleave(patches.shape[-1], 1)
        return cast(Recognised, self.heads(encoder.run_blocks(states, bias), patches, movement(x, seen)))

    def states_before(self, x: Tensor, attended: Tensor, count: int, first: int = 0) -> Tensor:
        """The states before each of the last `count` patches of x (N, L): (N, count, D).

        Without gradients, through the packed encoder where there is one. There are more patches than `count`.
        Otherwise as a call.
        """
        backbone, encoder = self.backbone, self.backbone.encoder
        patches = x.reshape(len(x), -1, backbone.geometry.patch_len)
        is_padded = not bool(attended.all())
        bias = one_way(encoder.attention_bias(patches.shape[1], attended if is_padded else None))
        # The last patch comes before none of them, but attention to 31 patches takes three times as long as
        # to 32 (torch 2.13, bfloat16 and float32, EPYC, 2026-11-26).
        states = backbone.patch_embedding(patches, None, first)
        if (packed := backbone.packed_blocks()) is not None:
            return packed(states, bias, count + 1)[:, :-1]
        return encoder.run_blocks(states, bias)[:, -count - 1 : -1]


def movement(x: Tensor, seen: Tensor | None = None, since: int = 0) -> Tensor:
    """How much each series moved lately against how much it usually does, and where it stood: (N, L, F).

    The logarithm of the mean squared step over the last 1, 4, 16 and 64 steps to that of all steps so
    far, and the mean of the last 4, 16 and 64 steps. What one line of numpy finds, the heads need not
    learn to find.

    Args:
        x: (N, L) in units of the context.
        seen: (N, L) bool, False for padding.
        since: the first step that is asked for; those before it are read and not given.
    """
    told = torch.ones_like(x) if seen is None else seen.to(x.dtype)
    before = F.pad(told[:, :-1], (1, 0))
    step = (x - F.pad(x[:, :-1], (1, 0))).square() * told * before
    total, counted = step.cumsum(1), told.cumsum(1)
    usual = (total[:, since:] / (told * before).cumsum(1)[:, since:].clamp(min=1) + STILL).log()
    level = (x * told).cumsum(1)
    out = [(step[:, since:] + STILL).log() - usual]
    for width in WIDTHS:
        count = _last(counted, width, since).clamp(min=1)
        out.append((_last(total, width, since).clamp(min=0) / count + STILL).log() - usual)
        out.append(_last(level, width, since) / count)
    return torch.stack(out, -1).clamp(-10, 10) / 3


def _last(total: Tensor, width: int, since: int) -> Tensor:
    """From running totals (N, L) to the totals of the last `width` steps, at each step from `since` on."""
    early = min(max(0, width - since), total.shape[1] - since)  # steps that have no `width` before them
    past = total[:, since + early - width : total.shape[1] - width]
    return total[:, since:] - F.pad(past, (early, 0))


def one_way(bias: Tensor) -> Tensor:
    """(…, P, P): a patch may not look at later ones."""
    later = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
    # Not the lowest number: in bfloat16 that is -inf, and a row of nothing else has no gradient.
    return bias.masked_fill(later, FORBIDDEN).clamp(min=FORBIDDEN)


def load_recogniser(folder: Path, backbone: Backbone) -> Recogniser | None:
    """The recogniser of a checkpoint's folder on its loaded backbone; None where it has no such heads.

    Raises:
        WeightsError: the heads are damaged or do not fit the backbone.
    """
    stored = weights.read_heads(folder)
    if stored is None:
        return None
    model = Recogniser(backbone)
    try:
        model.heads.load_state_dict({name: t.float() for name, t in stored.items()})
    except RuntimeError as error:
        raise WeightsError(
            f"{folder / weights.HEADS_NAME} does not fit the {weights.FILE_NAME} beside it; get the folder "
            "again."
        ) from error
    return model.eval()
