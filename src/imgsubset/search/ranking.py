"""An order of the chosen images of which every beginning represents the source well too."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.search.quadratic import Quadratic

# Ranks that are chosen, each at the price of a pass over the rows: longer beginnings are close anyway.
MOST_HERDED, LEAST_HERDED, PASSED = 1000, 100, 2_000_000
EMBEDDED = 1 << 14  # rows among which they are chosen: z has thousands of numbers


def herding_order(form: Quadratic, rows: Tensor) -> Tensor:
    """Rows (n,) in an order found greedily: each next row minimises the second-order loss of those up to it.

    Kernel herding (Chen, Welling & Smola, UAI 2010) within the subset: after k rows with sum s of their z, the next
    is argmin |s + z|^2 = argmin 2 s.z + |z|^2. The first 1,000 ranks (100 to 1,000 of more than 2,000 rows) are found
    so; beyond them the order is that of the rows.
    """
    among = rows[:: -(-len(rows) // EMBEDDED)]
    z = form.embed(among)
    cost, order = z.square().sum(1), []
    for _ in range(min(len(among), MOST_HERDED, max(LEAST_HERDED, PASSED // len(among)))):
        best = cost.argmin()
        order.append(best)
        cost += 2 * (z @ z[best])
        cost[best] = float("inf")
    first = among[torch.stack(order)]
    return torch.cat([first, rows[~torch.isin(rows, first)]])
