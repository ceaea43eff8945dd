"""Stand-in for the package momentfm: its import paths, on our network (see foreshock.models.momentfm).

Change `from momentfm...` to `from foreshock.momentfm...` and the rest of the code stays as it is.
`sklearn_adapter` and `models.statistical_classifiers` need scikit-learn.
"""

from foreshock.models.momentfm import MOMENT, MOMENTPipeline

__all__ = ["MOMENT", "MOMENTPipeline"]
