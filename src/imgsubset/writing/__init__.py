"""The destination: checked, filled with verified copies, described by its manifest.

In: a Selection. Out: files, and an Export that says which.
May import: the ground, reading, results.
"""
