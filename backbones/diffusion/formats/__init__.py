"""Files of other software: words, low-rank adapters, Custom Diffusion's weights."""
