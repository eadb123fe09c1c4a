"""An order of the chosen images of which every beginning represents the source well too."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import exact_matmul
from imgsubset.search.quadratic import Quadratic
from imgsubset.statistics.rng import make_generator

# Ranks that are chosen, each at the price of a pass over the rows: longer beginnings are close anyway.
MOST_HERDED, LEAST_HERDED, PASSED = 1000, 100, 2_000_000
# Rows among which they are chosen, and what their z may take: it has thousands of numbers.
EMBEDDED, EMBEDDED_BYTES = 1 << 14, 256 << 20
PART = 1024  # of them at once


@exact_matmul()
def herding_order(form: Quadratic, rows: Tensor) -> Tensor:
    """Rows (n,) in an order found greedily: each next row minimises the second-order loss of those up to it.

    Kernel herding (Chen, Welling & Smola, UAI 2010) within the subset: after k rows with sum s of their z, the next
    is argmin |s + z|^2 = argmin 2 s.z + |z|^2. The first 1,000 ranks (100 to 1,000 of more than 2,000 rows) are found
    so; beyond them the order is one of chance.
    """
    own = make_generator(rows.device, "ranking")
    shuffled = rows[torch.randperm(len(rows), generator=own, device=rows.device)]
    among = shuffled[: min(EMBEDDED, max(1, EMBEDDED_BYTES // (4 * max(1, form.width))))]
    z = torch.empty(len(among), form.width, device=rows.device)
    for part, some in zip(torch.split(z, PART), torch.split(among, PART), strict=True):
        part.copy_(form.embed(some))  # making it takes three times its memory
    cost, order = z.square().sum(1), []
    for _ in range(min(len(among), MOST_HERDED, max(LEAST_HERDED, PASSED // len(among)))):
        best = cost.argmin(0, keepdim=True)  # a tensor throughout: a GPU is not waited for
        order.append(best)
        cost += 2 * (z @ z.index_select(0, best)[0])
        cost.index_fill_(0, best, float("inf"))
    first = among[torch.cat(order)]
    return torch.cat([first, shuffled[~torch.isin(shuffled, first)]])
