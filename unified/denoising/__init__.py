"""Sampling and its inverses for every model that denoises, written for x = a x0 + s eps.

Epsilon and v-predicting diffusion and rectified flows go through the same code: `Denoises.split` turns what
the network says into (x0, eps), and from there on only `a` and `s` of the levels are looked at.
"""
