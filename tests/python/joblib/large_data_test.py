"""Large arrays in Parallel and scikit-learn: what tasks get, and that results are the same."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Lasso, LogisticRegression, SGDClassifier
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from muster import ComputePool
from muster.joblib import sklearn_backend

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
LARGE = np.arange(300_000.0)  # larger than max_nbytes
MIDDLE = np.arange(20_000.0)  # smaller, and yet a blob
SMALL = np.arange(100.0)


def look(array: Any) -> tuple[str, bool, float]:
    return type(array).__name__, bool(array.flags.writeable), float(array.sum())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("memmap", False), ("ndarray", True), ("ndarray", True)]),
        ({"mmap_mode": "c"}, [("memmap", True), ("ndarray", True), ("ndarray", True)]),
        ({"mmap_mode": "r+"}, [("memmap", True), ("ndarray", True), ("ndarray", True)]),
        ({"mmap_mode": None}, [("ndarray", True)] * 3),
        ({"max_nbytes": None}, [("ndarray", True)] * 3),
        ({"max_nbytes": "10K"}, [("memmap", False), ("memmap", False), ("ndarray", True)]),
        ({"max_nbytes": 100}, [("memmap", False)] * 3),
        ({"max_nbytes": "1G"}, [("ndarray", True)] * 3),
    ],
    ids=str,
)
def test_what_a_task_gets_is_what_joblib_says(
    pool: ComputePool, options: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    arrays = [LARGE, MIDDLE, SMALL]
    found = Parallel(n_jobs=-1, **options)(delayed(look)(array) for array in arrays)
    assert found == [(*kind, array.sum()) for kind, array in zip(expected, arrays)]


def fill(array: Any) -> float:
    before = float(array.sum())
    array[:] = 1
    return before


@pytest.mark.parametrize("mode", ["c", "r+", "w+"])
def test_what_a_task_writes_is_its_own(pool: ComputePool, mode: str) -> None:
    for array in (LARGE, MIDDLE):
        for batch_size in ("auto", 4):
            parallel = Parallel(n_jobs=-1, mmap_mode=mode, batch_size=batch_size)
            assert parallel(delayed(fill)(array) for _ in range(20)) == [array.sum()] * 20


def test_writing_to_a_large_array_is_an_error(pool: ComputePool) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=-1)(delayed(fill)(LARGE) for _ in range(3))
    parallel = Parallel(n_jobs=-1, batch_size=1)
    assert parallel(delayed(fill)(MIDDLE) for _ in range(9)) == [MIDDLE.sum()] * 9


def test_changes_between_calls_are_seen(pool: ComputePool) -> None:
    array = LARGE.copy()
    with Parallel(n_jobs=-1) as parallel:
        for i in range(4):
            array[i] = 1e9
            assert parallel(delayed(np.sum)(array) for _ in range(4)) == [array.sum()] * 4


def inner(array: Any) -> list[float]:
    """As the slot's own threads do it."""
    found: list[float] = Parallel(n_jobs=2)(delayed(np.sum)(array[i::2]) for i in range(2))
    return found


def test_nested_parallel(pool: ComputePool) -> None:
    expected = [LARGE[0::2].sum(), LARGE[1::2].sum()]
    assert Parallel(n_jobs=-1)(delayed(inner)(LARGE) for _ in range(6)) == [expected] * 6


def test_threads_call_at_once(process_pool: ComputePool) -> None:
    found: list[Any] = []

    def call(number: int) -> None:
        with sklearn_backend(process_pool):
            array = np.full(300_000, number)
            found.extend(Parallel(n_jobs=-1)(delayed(np.mean)(array) for _ in range(20)))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(float(n) for n in range(4) for _ in range(20))


def make(i: int) -> Any:
    return np.full(1_000_000, float(i))


if hasattr(joblib, "parallel_config"):

    def test_large_results_wait_in_the_pool_for_a_slow_consumer(
        pool: ComputePool, tmp_path: Path
    ) -> None:
        """8 MB each: 256 MB are under way at most, and a few more."""

        def make_and_tell(i: int) -> Any:
            (tmp_path / str(i)).touch()
            return make(i)

        results = Parallel(n_jobs=-1, return_as="generator", pre_dispatch="all", batch_size=1)(
            delayed(make_and_tell)(i) for i in range(200)
        )
        ahead = []
        for i, result in enumerate(results):
            assert result[0] == result[-1] == i
            if i % 10 == 0:
                ahead.append(len(os.listdir(tmp_path)) - i)
            del result
        assert i == 199
        print(f"ahead of the consumer by {ahead}")


def test_large_results_of_a_list(pool: ComputePool) -> None:
    results = Parallel(n_jobs=-1)(delayed(make)(i) for i in range(60))
    for i, result in enumerate(results):
        assert result.flags.writeable
        np.add(result, 1, out=result)
        assert result.mean() == i + 1


# --- scikit-learn ---


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """2 MB: a memory map in tasks."""
    random = np.random.default_rng(0)
    x = random.normal(size=(5000, 50))
    y = (x[:, :5].sum(axis=1) + random.normal(size=5000) > 0).astype(int) + (x[:, 0] > 1)
    return x, y


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], Any]:
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(3000)]
    y = random.integers(0, 2, 3000)
    return [" ".join(random.choice(words[: 2000 + 1000 * int(label)], 60)) for label in y], y


def grid_of_pipelines(x: Any, y: Any, n: int) -> Any:
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()),
        {"logisticregression__C": [0.01, 1]},
        n_jobs=n,
    )
    return search.fit(x, y).cv_results_["mean_test_score"]


def grid_in_order_f(x: Any, y: Any, n: int) -> Any:
    search = GridSearchCV(Lasso(), {"alpha": [0.01, 0.1]}, n_jobs=n)
    return search.fit(np.asfortranarray(x), y.astype(float)).cv_results_["mean_test_score"]


def forest(x: Any, y: Any, n: int) -> Any:
    made = RandomForestClassifier(12, random_state=0, n_jobs=n, oob_score=True).fit(x, y)
    return made.predict_proba(x[:200])


def extra_trees(x: Any, y: Any, n: int) -> Any:
    return ExtraTreesRegressor(8, random_state=0, n_jobs=n).fit(x, y).predict(x[:200])


def boosting(x: Any, y: Any, n: int) -> Any:
    estimator = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    return cross_val_score(estimator, x, y, cv=3, n_jobs=n)


def neighbours(x: Any, y: Any, n: int) -> Any:
    return cross_val_score(KNeighborsClassifier(algorithm="kd_tree"), x[:, :5], y, cv=3, n_jobs=n)


def stack(x: Any, y: Any, n: int) -> Any:
    parts = [
        ("forest", RandomForestClassifier(5, random_state=0)),
        ("line", SGDClassifier(random_state=0)),
    ]
    made = StackingClassifier(parts, cv=3, n_jobs=n).fit(x, y)
    return made.predict(x[:200])


def one_versus_rest(x: Any, y: Any, n: int) -> Any:
    return OneVsRestClassifier(LogisticRegression(), n_jobs=n).fit(x, y).decision_function(x[:200])


def importance(x: Any, y: Any, n: int) -> Any:
    made = RandomForestClassifier(10, random_state=0).fit(x, y)
    return permutation_importance(made, x, y, n_repeats=2, random_state=0, n_jobs=n).importances


def curve(x: Any, y: Any, n: int) -> Any:
    return learning_curve(LogisticRegression(), x, y, cv=3, n_jobs=n)[2]


def distances(x: Any, y: Any, n: int) -> Any:
    return pairwise_distances(x[:600], metric="cityblock", n_jobs=n)


WORK = [
    grid_of_pipelines,
    grid_in_order_f,
    forest,
    extra_trees,
    boosting,
    neighbours,
    stack,
    one_versus_rest,
    importance,
    curve,
    distances,
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_scikit_learn_gives_what_it_gives_alone(
    process_pool: ComputePool, data: tuple[Any, Any], work: Any
) -> None:
    # As in a slot, here and in loky: more threads of BLAS add in another order.
    with threadpool_limits(1):
        alone = work(*data, 1)
    with sklearn_backend(process_pool):
        np.testing.assert_array_equal(work(*data, -1), alone)


@pytest.mark.parametrize("scatter", [False, True])
def test_text_pipelines(
    process_pool: ComputePool, texts: tuple[list[str], Any], scatter: bool
) -> None:
    documents, y = texts

    def search(n: int) -> Any:
        pipeline = make_pipeline(
            CountVectorizer(), TfidfTransformer(), SGDClassifier(random_state=0)
        )
        grid = {"tfidftransformer__use_idf": [True, False]}
        return GridSearchCV(pipeline, grid, cv=3, n_jobs=n).fit(documents, y).cv_results_

    expected = search(1)["mean_test_score"]
    options = {"scatter": [documents, y]} if scatter else {}
    with joblib.parallel_backend("muster", pool=process_pool, n_jobs=-1, **options):
        np.testing.assert_array_equal(search(-1)["mean_test_score"], expected)


def test_sparse_matrices(process_pool: ComputePool, texts: tuple[list[str], Any]) -> None:
    matrix = TfidfVectorizer().fit_transform(texts[0])
    estimator = SGDClassifier(random_state=0)
    alone = cross_val_score(estimator, matrix, texts[1], cv=4)
    with sklearn_backend(process_pool):
        np.testing.assert_array_equal(
            cross_val_score(estimator, matrix, texts[1], cv=4, n_jobs=-1), alone
        )


def test_an_estimator_that_holds_arrays(process_pool: ComputePool, data: tuple[Any, Any]) -> None:
    x, y = data
    fitted = KNeighborsClassifier(3).fit(x, y)
    with sklearn_backend(process_pool):
        found = Parallel(n_jobs=-1)(delayed(fitted.predict)(x[i::20]) for i in range(4))
    for i, part in enumerate(found):
        np.testing.assert_array_equal(part, fitted.predict(x[i::20]))
