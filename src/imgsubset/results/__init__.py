"""Records of what came out of a task, as JSON and as text.

In: values. Out: frozen records, dictionaries for json.dumps, text for a terminal.
May import: the ground, and records of reading, features, statistics and search.
"""
