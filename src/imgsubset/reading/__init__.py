"""Which images there are, with what belongs to them, and their pixels.

In: the name of a source. Out: a Listing; of its files decoded chunks; labels, classes and groups by path.
May import: the ground (errors, options, files, ...).
"""
