"""Pixels, or tables of numbers, to blocks of moments: the extractors, ingest, embeddings, the cache.

In: a Listing and options. Out: a Source, whose blocks hold a row of moments an image.
May import: the ground, reading, statistics.
"""
