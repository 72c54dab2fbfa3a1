"""The contract: what backbones, spaces, methods, schemes and recipes are to each other."""
