"""Random draws and annealed exchanges under one loop: the subset with the lowest loss.

In: an Objective, what may be chosen, a generator. Out: row indices, with their losses and a trace.
May import: the root modules, statistics. It knows neither images nor networks.
"""
