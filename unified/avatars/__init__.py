"""The avatars: drawn faces with every attribute known, the data all embedded models are trained on."""
