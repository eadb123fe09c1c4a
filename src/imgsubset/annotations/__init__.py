"""What is known about images besides their pixels: classes, groups, label files, tables.

In: a Listing, label files, tables. Out: classes and groups by path, columns, label files cut to a subset.
May import: the root modules, sources.
"""
