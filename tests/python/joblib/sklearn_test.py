"""scikit-learn on a pool: every search and validation gives what it gives without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.stats import randint, uniform
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import RFECV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from muster import ComputePool, MusterBackend, ScikitLearnPool
from muster.joblib import sklearn_backend

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
Data = tuple[Any, Any]


@pytest.fixture(scope="module")
def digits() -> Data:
    data, target = load_digits(return_X_y=True)
    return data[:300], target[:300]


@pytest.fixture(scope="module")
def cancer() -> Data:
    data, target = load_breast_cancer(return_X_y=True)
    return data[:200, :8], target[:200]


@pytest.fixture
def both(process_pool: ComputePool) -> Iterator[Callable[[Callable[[int], Any]], Any]]:
    """Runs a function of n_jobs without the pool and on it; returns both results."""

    def run(work: Callable[[int], Any]) -> tuple[Any, Any]:
        alone = work(1)
        before = process_pool.nodes()[0].tasks_done
        with sklearn_backend(process_pool):
            pooled = work(-1)
        assert process_pool.nodes()[0].tasks_done > before, "nothing ran on the pool"
        return alone, pooled

    yield run


def same_search(alone: Any, pooled: Any) -> None:
    assert alone.best_params_ == pooled.best_params_
    assert alone.best_score_ == pooled.best_score_
    np.testing.assert_array_equal(
        alone.cv_results_["mean_test_score"], pooled.cv_results_["mean_test_score"]
    )


def test_grid_search_of_a_support_vector_machine(both: Any, digits: Data) -> None:
    grid = {"C": [0.1, 1, 10], "gamma": ["scale", 0.001], "kernel": ["rbf", "poly"]}

    same_search(*both(lambda n: GridSearchCV(SVC(), grid, cv=5, n_jobs=n).fit(*digits)))


def test_grid_search_of_a_random_forest(both: Any, digits: Data) -> None:
    grid = {"n_estimators": [5, 10], "max_depth": [3, None], "min_samples_split": [2, 5]}
    forest = RandomForestClassifier(random_state=1)

    same_search(*both(lambda n: GridSearchCV(forest, grid, cv=3, n_jobs=n).fit(*digits)))


def test_randomized_search_of_a_neural_network(both: Any, digits: Data) -> None:
    space = {
        "hidden_layer_sizes": [(10,), (10, 5)],
        "alpha": uniform(0.0001, 0.01),
        "learning_rate_init": uniform(0.001, 0.01),
        "max_iter": randint(5, 15),
    }
    network = MLPClassifier(random_state=1)

    same_search(
        *both(
            lambda n: RandomizedSearchCV(
                network, space, n_iter=4, cv=2, n_jobs=n, random_state=1
            ).fit(*digits)
        )
    )


def test_cross_val_score_of_gradient_boosting(both: Any, cancer: Data) -> None:
    model = GradientBoostingClassifier(n_estimators=10, random_state=1)

    np.testing.assert_array_equal(*both(lambda n: cross_val_score(model, *cancer, cv=5, n_jobs=n)))


def test_cross_validate_with_four_metrics(both: Any, cancer: Data) -> None:
    metrics = ["accuracy", "precision", "recall", "f1"]
    forest = RandomForestClassifier(n_estimators=10, random_state=1)

    alone, pooled = both(lambda n: cross_validate(forest, *cancer, cv=5, n_jobs=n, scoring=metrics))
    for metric in metrics:
        np.testing.assert_array_equal(alone[f"test_{metric}"], pooled[f"test_{metric}"])


def test_recursive_feature_elimination(both: Any, cancer: Data) -> None:
    forest = RandomForestClassifier(n_estimators=5, random_state=1)

    alone, pooled = both(lambda n: RFECV(forest, step=1, cv=3, n_jobs=n).fit(*cancer))
    assert alone.n_features_ == pooled.n_features_
    np.testing.assert_array_equal(alone.ranking_, pooled.ranking_)


def test_voting_of_three_models(both: Any, cancer: Data) -> None:
    vote = VotingClassifier(
        [
            ("forest", RandomForestClassifier(n_estimators=10, random_state=1)),
            ("boosting", GradientBoostingClassifier(n_estimators=10, random_state=1)),
            ("logistic", LogisticRegression(max_iter=200)),
        ],
        voting="soft",
    )

    np.testing.assert_array_equal(*both(lambda n: cross_val_score(vote, *cancer, cv=5, n_jobs=n)))


def test_randomized_search_with_scattered_digits(process_pool: ComputePool, digits: Data) -> None:
    space = {
        "C": np.logspace(-3, 3, 7),
        "gamma": np.logspace(-4, 1, 6),
        "tol": np.logspace(-4, -1, 4),
        "class_weight": [None, "balanced"],
    }
    search = RandomizedSearchCV(SVC(), space, cv=3, n_iter=8, random_state=1)
    alone = RandomizedSearchCV(SVC(), space, cv=3, n_iter=8, random_state=1).fit(*digits)

    context = getattr(joblib, "parallel_config", joblib.parallel_backend)
    with context("muster", broker=process_pool.broker, scatter=list(digits), n_jobs=-1):
        search.fit(*digits)
    same_search(alone, search)
    with pytest.raises(TypeError, match="scatter must be a list"):
        MusterBackend(process_pool, scatter=digits[0])


def test_a_forest_uses_the_pool_and_predicts_in_its_caller(both: Any, cancer: Data) -> None:
    data, target = cancer

    def fit(n_jobs: int) -> Any:
        forest = RandomForestClassifier(n_estimators=20, random_state=1, n_jobs=n_jobs)
        return forest.fit(data, target).predict_proba(data)  # predict requires shared memory

    np.testing.assert_array_equal(*both(fit))


def test_a_scikit_learn_pool() -> None:
    data, target = load_digits(return_X_y=True)
    with ScikitLearnPool(nodes=2, concurrency=1) as pool:
        assert pool.total_slots == 2
        scores = cross_val_score(SVC(), data[:200], target[:200], cv=4, n_jobs=-1)
        assert pool.nodes()[0].tasks_done + pool.nodes()[1].tasks_done >= 4
    np.testing.assert_array_equal(scores, cross_val_score(SVC(), data[:200], target[:200], cv=4))
