"""Which images there are: folders, lists, archives, shards, Parquet tables, URLs, Python datasets.

In: the name of a source, or a Python object. Out: a Listing, which opens each image by its path.
May import: the root modules.
"""
