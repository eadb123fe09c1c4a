"""The destination: locked, checked, filled with verified copies, described by its manifest.

In: a Selection. Out: files, and an Export that lists them.
May import: the root modules, sources, annotations, results.
"""
