"""Choose the n images of a folder whose distribution is closest to that of the whole, and say how close they are.

from imgsubset import Options, Weights, export, select

selection = select("photos", 500, Options(weights=Weights(frechet=2)))
print(selection.score.loss, selection.chosen)
export(selection, "subset")
"""

# Nothing here imports torch: decoding processes and `--help` import this package too.
from imgsubset.errors import ImgsubsetError
from imgsubset.export import Export, export
from imgsubset.options import Options, Weights
from imgsubset.selection import Score, Selection, select

__version__ = "0.1.0"
__all__ = ["Export", "ImgsubsetError", "Options", "Score", "Selection", "Weights", "__version__", "export", "select"]
