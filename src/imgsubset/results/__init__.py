"""Records of what tasks return, as JSON and as text.

In: values. Out: frozen records, dictionaries for json.dumps, text for a terminal.
May import: the root modules, and records of sources, features, statistics and search.
"""
