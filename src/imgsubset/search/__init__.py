"""The search for the subset with the lowest loss: one loop, one file for each method."""
