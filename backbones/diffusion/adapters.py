"""Where low-rank adapters go in diffusion networks."""

from __future__ import annotations

from torch import nn

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def attention_matrices(network: nn.Module) -> list[str]:
    """Paths of the weights of all attention projections, as diffusers names them."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{p}" for p in _PROJECTIONS)):
            found.append(f"{name}.weight")
    return found
