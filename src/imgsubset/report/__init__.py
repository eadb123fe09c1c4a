"""Figures and HTML pages of results.

In: results, and moments while they are in memory. Out: files.
May import: the root modules, sources, annotations, decoding, statistics, search, features, results, writing.
"""
