"""Pixels, or tables of numbers, to blocks of moments: extractors, ingest, embeddings, the cache.

In: a Listing and options. Out: blocks of moments with one row per image.
May import: the root modules, sources, annotations, decoding, statistics.
"""
