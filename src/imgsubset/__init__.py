"""Choose the n images of a folder whose distribution is closest to that of the whole, and say how close they are.

from imgsubset import compare, export, score, select, select_into

selection = select("photos", 500, weights={"frechet": 1})
print(selection.score.loss, selection.chosen)
export(selection, "subset")                 # or, doing nothing where that was done before:
select_into("photos", 500, "subset", weights={"frechet": 1})
print(score("photos", "subset").score.percentile, compare("photos", "others").loss)
"""

# Nothing here imports torch: decoding processes and `--help` import this package too.
from imgsubset.divergence_weights import Weights
from imgsubset.errors import BadFilesError, GateError, ImgsubsetError, InputError, OutputError, UsageError
from imgsubset.inputs import Embeddings
from imgsubset.options import Options
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.records import (
    Difference,
    Embedded,
    Estimate,
    Estimated,
    Export,
    Placed,
    Scored,
    Selection,
    Verification,
)
from imgsubset.results.scores import Measured, Score
from imgsubset.tasks.compare import compare
from imgsubset.tasks.difficulty import hardness
from imgsubset.tasks.embed import embed
from imgsubset.tasks.estimate import estimate
from imgsubset.tasks.score import score
from imgsubset.tasks.select import select, select_into
from imgsubset.tasks.split import split, split_into
from imgsubset.tasks.verify import verify
from imgsubset.writing.export import export

__version__ = "0.1.0"
__all__ = [
    "BadFilesError",
    "Comparison",
    "Difference",
    "Distance",
    "Embedded",
    "Embeddings",
    "Estimate",
    "Estimated",
    "Export",
    "GateError",
    "ImgsubsetError",
    "InputError",
    "Measured",
    "Options",
    "OutputError",
    "Overlap",
    "Placed",
    "Score",
    "Scored",
    "Selection",
    "UsageError",
    "Verification",
    "Weights",
    "compare",
    "embed",
    "estimate",
    "export",
    "hardness",
    "score",
    "select",
    "select_into",
    "split",
    "split_into",
    "verify",
]
