"""An order of the chosen images of which every beginning represents the source well too."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.search.quadratic import Quadratic

HERDED = 1000  # ranks that are chosen; beginnings longer than this are close anyway, and each rank costs a pass over n


def herding_order(form: Quadratic, rows: Tensor) -> Tensor:
    """Rows (n,) in an order found greedily: each next row minimises the second-order loss of those up to it.

    Kernel herding (Chen, Welling & Smola, UAI 2010) within the subset: after k rows with sum s of their z, the next
    is argmin |s + z|^2 = argmin 2 s.z + |z|^2. From rank HERDED on the order is that of the rows.
    """
    z = form.embed(rows)
    norms = z.square().sum(1)
    cost, order = norms.clone(), []
    for _ in range(min(HERDED, len(rows))):
        best = cost.argmin()
        order.append(best)
        cost += 2 * (z @ z[best])
        cost[best] = float("inf")
    rest = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    rest[torch.stack(order)] = False
    return torch.cat([rows[torch.stack(order)], rows[rest]])
