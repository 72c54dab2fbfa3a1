"""Training of the embedded diffusion models: tokenizer, CLIP, autoencoder, UNet."""
