"""Which layers decide an attribute: where another sample's style vectors bring that sample's value."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from editing.find.judging import Classifier
from editing.rendering import render_shifted
from editing.styles import gan_of, sample_styles
from unified.contract.backbone import Backbone
from unified.contract.progress import Progress, Silent
from unified.contract.random import Random

SAMPLES = 96
_BATCH = 64
_ENOUGH = 0.75  # of those who take a value with all layers


def shown_values(backbone: Backbone, classifier: Classifier, styles: Tensor) -> dict[str, Tensor]:
    """Attribute -> index of the value, int64 [N], that each picture of styles [N, number, width] shows."""
    with torch.no_grad():
        parts = [classifier.logits(render_shifted(backbone, part)) for part in styles.split(_BATCH)]
    return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in parts[0]}


@torch.no_grad()
def mixing_shares(
    backbone: Backbone,
    classifier: Classifier,
    *,
    samples: int = SAMPLES,
    rng: Random,
    progress: Progress | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Attribute -> shares [layers] of samples that take another sample's value with its first, and its last layers.

    Style mixing (Karras et al. 2019, section 3.1) among samples whose values differ: entry l of the one is with the
    other's style vectors in layers 0 to l, of the other with those from l on.
    """
    progress = progress or Silent()
    number, _ = gan_of(backbone).style_shape()
    styles = sample_styles(backbone, range(samples), truncation=1.0, rng=rng)
    other = styles.roll(1, 0)
    own = shown_values(backbone, classifier, styles)
    shares = {name: (torch.zeros(number), torch.zeros(number)) for name in own}
    progress.start("which layers decide", number)
    for layer in range(number):
        upto = torch.cat([other[:, : layer + 1], styles[:, layer + 1 :]], 1)
        since = torch.cat([styles[:, :layer], other[:, layer:]], 1)
        for place, mixed in enumerate((upto, since)):
            for name, seen in shown_values(backbone, classifier, mixed).items():
                wanted = own[name].roll(1)
                differ = own[name] != wanted
                share = float(((seen == wanted) & differ).sum()) / max(1, int(differ.sum()))
                shares[name][place][layer] = share
        progress.advance(layer + 1)
    progress.finish()
    return shares


def deciding_layers(shares: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[int, int]]:
    """Attribute -> first and last layer that decide it.

    The last is where mixing in the other's first layers is enough, the first where its last layers are: enough is
    most of those who would take the value with all layers. An attribute that never differs is left out. Where both
    halves are enough alone, all layers between them are taken.
    """
    found = {}
    for name, (upto, since) in shares.items():
        enough = _ENOUGH * float(upto[-1])
        if enough == 0:
            continue
        last = int((upto >= enough).int().argmax())
        first = int((since >= enough).nonzero().max())
        found[name] = (min(first, last), max(first, last))
    return found
