"""The table of GAN inversion (survey section 3): reconstruction, editability and time of every recipe.

The published rows are those of the GANInverter collection: CelebA-HQ test pictures, the FFHQ generator at 1024 px,
LPIPS with VGG, seconds on an RTX 3090. Its order is what small models can show too; its values are not.
"""

from unified.evaluation.edits import VALUES
from unified.evaluation.suites import Published, Suite, suites

suites.register(
    "gan-inversion",
    Suite(
        name="gan-inversion",
        model="avatars/stylegan2",
        published={
            "projector": Published("Opt-W", 15.85, 0.1967, 0.32),
            "image2stylegan": Published("Opt-W+", 20.59, 0.1092, 0.77),
            "psp": Published("pSp", 18.03, 0.1591, 0.56, 0.041),
            "e4e": Published("e4e", 16.66, 0.1974, 0.50, 0.042),
            "restyle-e4e": Published("ReStyle-e4e", 17.09, 0.1904, 0.51, 0.150),
            "hyperstyle": Published("HyperStyle", 20.09, 0.0985, 0.74, 0.162),
            "hfgi": Published("HFGI", 20.14, 0.1166, 0.68, 0.067),
            "pti": Published("PTI", 24.61, 0.0817, 0.85, 59.0),
            "sam": Published("SAM", 20.59, 0.1442, 0.57, 67.0),
        },
        source="GANInverter, CelebA-HQ test pictures, FFHQ generator at 1024 px, LPIPS-VGG, RTX 3090",
        edits=VALUES,
        directions=("interfacegan",),
    ),
)
