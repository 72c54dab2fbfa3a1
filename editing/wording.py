"""What a text asks for beyond a neutral one, however either is worded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from editing.scorers import TextScorer

#: Sentences that say no more than what is put into them.
TEMPLATES = ("{}", "a photo of {}", "a portrait of {}", "a picture of {}", "an avatar of {}")


def asked(scorer: TextScorer, target: str, neutral: str, *, templates: Sequence[str] = TEMPLATES) -> Tensor:
    """The step [D] from the neutral text to the target: a direction, as long as it is no matter of wording, 0 to 1.

    The neutral text is put into each template, and the one whose features are nearest to the target's is its start:
    both then have the same frame of words around them, where StyleCLIP averages over templates for both (Patashnik et
    al. 2021, section 6.1), which whole sentences leave no room for. The templates' root mean square distance from
    their mean is what wording alone does; of a step the share max(0, 1 - (that / its length)^2) is kept, as a Wiener
    filter keeps of a signal in noise. So a target that says no more than the neutral text does asks for nothing.
    """
    features = functional.normalize(scorer.text_features([target, *(t.format(neutral) for t in templates)]), dim=1)
    steps = features[0] - features[1:]
    step = steps[steps.square().sum(1).argmin()]
    noise = (features[1:] - features[1:].mean(0)).square().sum(1).mean()
    length = step.square().sum()
    if float(length) <= max(float(noise), 1e-12):
        return torch.zeros_like(step)
    return functional.normalize(step, dim=0) * (1 - noise / length)
