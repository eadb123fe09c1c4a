"""Choose the n images of a folder whose distribution is closest to that of the whole, and say how close they are.

from imgsubset import Options, Weights, compare, export, score, select

selection = select("photos", 500, Options(weights=Weights(frechet=2)))
print(selection.score.loss, selection.chosen)
export(selection, "subset")
print(score("photos", "subset").score.percentile, compare("photos", "others").loss)
"""

# Nothing here imports torch: decoding processes and `--help` import this package too.
from imgsubset.errors import ImgsubsetError
from imgsubset.options import Embeddings, Options, Weights
from imgsubset.tasks.compare import compare
from imgsubset.tasks.score import score
from imgsubset.tasks.select import Selection, select
from imgsubset.tasks.split import split
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
    "split",
]
