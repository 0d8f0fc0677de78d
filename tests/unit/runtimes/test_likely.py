"""Turned trees say the same, and their likelier branch is the one that a false comparison takes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from forebay.core.tensors import Array
from forebay.runtimes.ensemble import Ensemble, Tree, telling_rows
from forebay.runtimes.likely import likely_first, quickest_graph, widener

FEATURES = 3


def random_tree(random: np.random.Generator, depth: int, nan_left: float) -> Tree:
    """A full tree; its thresholds are few, so that rows meet them, and zero and the extremes are among them."""
    count = 2 ** (depth + 1) - 1
    inner = np.arange(count) < 2**depth - 1
    child = 2 * np.arange(count) + 1
    splits = np.array([-0.0, 0.0, 1.5, -1.5, 3.4e38, -3.4e38, 1e-45], np.float32)
    return Tree(
        feature=random.integers(0, FEATURES, count),
        threshold=np.where(inner, random.choice(splits, count), random.standard_normal(count)).astype(np.float32),
        left=np.where(inner, child, -1),
        right=np.where(inner, child + 1, -1),
        nan_left=inner & (random.random(count) < nan_left),
        cover=random.random(count),
    )


def ensemble_of(mode: Literal["BRANCH_LT", "BRANCH_LEQ"], nan_left: float, seed: int = 0) -> Ensemble:
    random = np.random.default_rng(seed)
    trees = [random_tree(random, depth, nan_left) for depth in (0, 1, 3, 4, 4)]
    return Ensemble(FEATURES, trees, [0] * len(trees), [0.0], mode, "identity")


def leaves(ensemble: Ensemble, rows: Array) -> list[list[float]]:
    """The leaf values that each row comes to, tree by tree, as the definition of a tree has it."""
    found: list[list[float]] = []
    for row in rows:
        found.append([])
        for tree in ensemble.trees:
            node = 0
            while tree.left[node] >= 0:
                value, threshold = row[tree.feature[node]], tree.threshold[node]
                less = value < threshold if ensemble.mode == "BRANCH_LT" else value <= threshold
                left = tree.nan_left[node] if np.isnan(value) else less
                node = tree.left[node] if left else tree.right[node]
            found[-1].append(float(tree.threshold[node]))
    return found


@pytest.mark.parametrize("nan_left", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["BRANCH_LT", "BRANCH_LEQ"])
def test_turned_trees_come_to_the_same_leaves(mode: Literal["BRANCH_LT", "BRANCH_LEQ"], nan_left: float) -> None:
    ensemble = ensemble_of(mode, nan_left)
    turned = likely_first(ensemble)
    assert turned is not None
    rows = telling_rows(ensemble, 400)
    wide = np.empty((len(rows), turned.ensemble.features), np.float32)
    widener(turned.blocks, FEATURES)(wide)(rows)
    assert leaves(turned.ensemble, wide) == leaves(ensemble, rows)
    assert len(turned.blocks) == (4 if nan_left == 0.5 else 2)
    for tree in turned.ensemble.trees:
        inner = tree.left >= 0
        assert tree.cover is not None
        assert np.all(tree.cover[tree.left[inner]] <= tree.cover[tree.right[inner]])
        assert not tree.nan_left.any()


def test_without_covers_nothing_is_turned() -> None:
    ensemble = ensemble_of("BRANCH_LT", 0.5)
    tree = ensemble.trees[-1]
    bare = Tree(tree.feature, tree.threshold, tree.left, tree.right, tree.nan_left)
    mixed = Ensemble(FEATURES, [tree, bare], [0, 0], [0.0], "BRANCH_LT", "identity")
    assert likely_first(mixed) is None
    assert quickest_graph(mixed).widen is None


def test_trees_that_are_leaves_need_no_columns() -> None:
    leaf = random_tree(np.random.default_rng(0), 0, 0.0)
    assert quickest_graph(Ensemble(FEATURES, [leaf], [0], [0.0], "BRANCH_LT", "identity")).widen is None
