"""Image files to pixels, in worker processes that do not import torch.

In: files of a Listing. Out: chunks of uint8 pixels, or the reason why a file cannot be decoded; thumbnails.
May import: the root modules, sources.
"""
