"""Moments, divergences, Langevin noise, the objective, the permutation test: tensors in, tensors out.

In: blocks of moments. Out: losses. It opens no file, prints nothing, and draws only from generators that it is given.
May import: the root modules.
"""
