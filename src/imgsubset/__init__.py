"""Choose the n images of a folder whose distribution is closest to that of the whole, and say how close they are.

from imgsubset import compare, export, score, select, select_into

selection = select("photos", 500, weights={"frechet": 1})
print(selection.score.loss, selection.chosen)
export(selection, "subset")                 # or, doing nothing where that was done before:
select_into("photos", 500, "subset", weights={"frechet": 1})
print(score("photos", "subset").score.percentile, compare("photos", "others").loss)
"""

# Nothing here imports torch: decoding processes and `--help` import this package too.
from imgsubset.errors import ImgsubsetError
from imgsubset.options import Embeddings, Options
from imgsubset.results.records import Selection
from imgsubset.tasks.compare import compare
from imgsubset.tasks.score import score
from imgsubset.tasks.select import select, select_into
from imgsubset.tasks.split import split, split_into
from imgsubset.weights import Weights
from imgsubset.writing.export import export

__version__ = "0.1.0"
__all__ = [
    "Embeddings",
    "ImgsubsetError",
    "Options",
    "Selection",
    "Weights",
    "compare",
    "export",
    "score",
    "select",
    "select_into",
    "split",
    "split_into",
]
