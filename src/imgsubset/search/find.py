"""The search for the subset with the lowest loss: random draws, of which exchanges improve the best.

One loop runs both methods; each has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from imgsubset.options import Options
from imgsubset.progress import Progress
from imgsubset.search.choices import Choices
from imgsubset.search.draws import RandomDraws
from imgsubset.search.exchange import Exchanges
from imgsubset.search.loop import Checkpoint, Found, search
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.objective import Objective

DRAWS_SHARE = 0.1  # of a time limit


def find(
    objective: Objective,
    options: Options,
    generator: Generator,
    stop: Callable[[], bool],
    progress: Progress,
    start: Tensor | None = None,
    choices: Choices | None = None,
    checkpoint: Checkpoint | None = None,
) -> Found:
    """Search with the candidates, chains, steps and time limit of the options; the best subset comes first.

    start    (K, n) subsets to improve on, in place of random draws
    choices  what may be chosen, where not any rows may
    checkpoint  where the exchanges' state is kept, and taken from to begin with
    """
    images = objective.images
    choices = choices or Choices.free(len(images), objective.n, images.table.device)
    limit = options.time_limit
    state = checkpoint.load() if checkpoint else None
    if state is not None:
        draws = Found(state.rows, state.losses, state.trace, stopped=False)
        chains = choices.rows(state.method["members"].to(images.table.device))
    elif start is None or not options.steps or not any(objective.coefficients.values()):
        draws = search(
            RandomDraws(objective, options.candidates, generator, choices),
            objective.loss,
            keep=options.chains if choices.single else 1,
            seconds=limit * DRAWS_SHARE if limit and options.steps else limit,
            stop=stop,
            progress=lambda work, best: progress("draw", work, options.candidates, f"loss {best:.3f}"),
        )
    else:
        losses = objective.loss(start)
        order = losses.argsort(stable=True)
        draws = Found(start[order].sort(1).values, losses[order], (), stopped=False)
    if draws.stopped or not options.steps or not choices.strata or not any(objective.coefficients.values()):
        return draws
    form = quadratic_form(images, objective.source, objective.coefficients)
    exchanges = Exchanges(form, draws.rows if state is None else chains, options.steps, generator, choices)
    spent = max((point.seconds for point in draws.trace if point.method == RandomDraws.name), default=0.0)
    return search(
        exchanges,
        objective.loss,
        start=draws,
        # Draws of very large subsets may have used up all of it: what is left must stay a limit.
        seconds=limit and max(limit - spent, 1e-9),
        stop=stop,
        progress=lambda work, best: progress("exchange", work, options.steps, f"loss {best:.4f}"),
        checkpoint=checkpoint,
    )
