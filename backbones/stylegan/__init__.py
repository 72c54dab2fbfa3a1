"""StyleGAN2: networks, checkpoint formats and training."""

from backbones.stylegan.config import DiscriminatorConfig, GeneratorConfig, channel_plan
from backbones.stylegan.discriminator import Discriminator
from backbones.stylegan.generator import Generator

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig", "channel_plan"]
