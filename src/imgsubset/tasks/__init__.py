"""What a user asks for: select, split, score, compare, estimate, verify, embed. One module per task.

In: sources, sizes, options. Out: records of results. A task is a function that calls the stages in their order.
May import: everything but cli.
"""
