"""What a user asks for: select, split, score, compare, verify, estimate; and what may be chosen.

In: sources, sizes, options. Out: records of results. A task is a function that calls the stages in their order.
May import: everything but cli.
"""
