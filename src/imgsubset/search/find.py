"""The search for the subset with the lowest loss: random draws, of which exchanges improve the best.

One loop runs both methods; each has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from imgsubset.devices import exact_matmul
from imgsubset.options import Options
from imgsubset.progress import Progress
from imgsubset.search.choices import Choices
from imgsubset.search.draws import RandomDraws
from imgsubset.search.exchange import Exchanges
from imgsubset.search.loop import Found, search
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.objective import Objective

DRAWS_SHARE = 0.1  # of a time limit


@exact_matmul()
def find(
    objective: Objective,
    options: Options,
    stop: Callable[[], bool],
    progress: Progress,
    start: Tensor | None = None,
    choices: Choices | None = None,
) -> Found:
    """Search with the seed, candidates, chains, steps and time limit of the options; the best subset comes first.

    start    (K, n) subsets to improve on, in place of random draws
    choices  what may be chosen, where not any rows may
    """
    choices = choices or Choices.free(objective.total, objective.n, objective.device)
    limit = options.time_limit
    exchanged = bool(options.steps and choices.strata) and not objective.is_flat
    if start is not None and exchanged:
        losses = objective.loss(start)
        order = losses.argsort(stable=True)
        found = Found(start[order].sort(1).values, losses[order], (), stopped=False)
    else:
        draws = RandomDraws(objective, options.candidates, options.seed, choices, options.rounds, options.schedule)
        found = search(
            draws,
            objective.loss,
            keep=options.chains if choices.single else 1,
            seconds=limit * DRAWS_SHARE if limit and options.steps else limit,
            stop=stop,
            progress=lambda work, best: progress("draw", work, draws.candidates, f"loss {best:.3f}"),
        )
    if found.stopped or not exchanged:
        return found
    exchanges = Exchanges(quadratic_form(objective), found.rows, options.steps, options.seed, choices)
    spent = max((point.seconds for point in found.trace), default=0.0)
    return search(
        exchanges,
        objective.loss,
        start=found,
        # Draws of very large subsets may have used up all of it: what is left must stay a limit.
        seconds=limit and max(limit - spent, 1e-9),
        stop=stop,
        progress=lambda work, best: progress("exchange", work, options.steps, f"loss {best:.4f}"),
    )
