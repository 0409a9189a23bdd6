"""A grid search of a support vector machine on scikit-learn's digits, on a local pool and without.

PYTHONPATH=build/release/python python3 examples/python/grid_search.py [SLOTS]
"""

import sys
import time

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from muster.joblib import ScikitLearnPool

GRID = {"C": [0.1, 1, 10, 100], "gamma": ["scale", 0.01, 0.001], "kernel": ["rbf", "poly"]}


def search(n_jobs: int) -> GridSearchCV:
    data, target = load_digits(return_X_y=True)
    start = time.perf_counter()
    found = GridSearchCV(SVC(), GRID, cv=5, n_jobs=n_jobs).fit(data, target)
    fits = 5 * len(found.cv_results_["params"])
    print(f"{fits} fits in {time.perf_counter() - start:.1f} s with n_jobs={n_jobs}")
    return found


def main() -> None:
    slots = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with ScikitLearnPool(concurrency=slots) as pool:
        print(f"{pool.total_slots} slots")
        pooled = search(n_jobs=-1)
    alone = search(n_jobs=1)

    print("best parameters:", pooled.best_params_)
    print(f"best score: {pooled.best_score_:.4f}")
    scores = [found.cv_results_["mean_test_score"].tolist() for found in (pooled, alone)]
    same = pooled.best_params_ == alone.best_params_ and scores[0] == scores[1]
    print("equal to the sequential run:", same)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
