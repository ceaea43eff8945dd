"""The original's `momentfm.models.statistical_classifiers`: a support vector machine on embeddings.

Needs scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def fit_svm(features: np.ndarray, y: np.ndarray, MAX_SAMPLES: int = 10_000) -> Any:
    """A fitted classifier; C is chosen by cross-validation when there are enough examples of each class."""
    from sklearn.model_selection import GridSearchCV, train_test_split  # type: ignore[import-untyped]
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    plain = SVC(C=100_000, gamma="scale")
    if len(features) // len(np.unique(y)) < 5 or len(features) < 50:
        return plain.fit(features, y)
    if len(features) > MAX_SAMPLES:
        features, _, y, _ = train_test_split(features, y, train_size=MAX_SAMPLES, random_state=0, stratify=y)
    search = GridSearchCV(plain, {"C": [10.0**e for e in range(-4, 5)]}, cv=5)
    return search.fit(features, y).best_estimator_
