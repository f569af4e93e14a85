"""What a sweep varies: every point is a recipe, and what would change the ruler is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan.errors import RecipeError
from galvan.recipe import Recipe
from galvan.sweep.space import DEFAULT, dimensions, grid_points, random_points, with_settings


def test_without_a_grid_ranks_and_learning_rates_of_the_origins_to_do_list_are_tried():
    points = grid_points(dimensions((), Recipe()))
    assert len(points) == 15
    assert {p["training.lora.rank"] for p in points} == {8, 16, 32}
    assert {p["training.learning_rate"] for p in points} == {1e-4, 2e-4, 3e-4, 5e-4, 1e-3}
    assert len(DEFAULT) == 2


def test_alpha_follows_the_rank_as_twice_it_unless_the_point_names_it():
    assert with_settings(Recipe(), {"training.lora.rank": 32}).training.lora.alpha == 64.0
    assert with_settings(Recipe(), {"training.lora.rank": 32, "training.lora.alpha": 8.0}).training.lora.alpha == 8.0
    assert with_settings(Recipe(), {"training.learning_rate": 1e-3}).training.lora.alpha == Recipe().training.lora.alpha


def test_lists_and_words_are_values_too():
    points = grid_points(dimensions(["training.lora.targets=[q_proj, v_proj],all-linear"], Recipe()))
    assert [p["training.lora.targets"] for p in points] == [["q_proj", "v_proj"], "all-linear"]
    assert with_settings(Recipe(), points[0]).training.lora.targets == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("grid", "code"),
    [
        ("training.lora.rank", "sweep/grid"),
        ("training.lora.rank=8,8", "sweep/grid"),
        ("training.lora.rank=", "sweep/grid"),
        ("training.learning_rate=1e-3..1e-4", "sweep/grid"),
        ("training.learning_rate=0..1e-3:log", "sweep/grid"),
        ("training.learning_rate=1e-4..1e-3:cubic", "sweep/grid"),
        ("training.lora.rank=0", "recipe/value"),
        ("training.rank=8", "recipe/unknown-key"),
        ("data.split.test=0.1,0.2", "sweep/option"),
        ("evaluation.margin_nats=0.001,0.1", "sweep/option"),
        ("seed=1,2", "sweep/option"),
        ("training.document_tokens=64,128", "sweep/option"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_runs(grid: str, code: str):
    with pytest.raises(RecipeError) as raised:
        dimensions([grid], Recipe())
    assert raised.value.code == code


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(RecipeError, match="twice"):
        dimensions(["training.lora.rank=8", "training.lora.rank=16"], Recipe())


def test_a_grid_has_no_points_of_a_range_and_not_too_many():
    with pytest.raises(RecipeError, match="is a range"):
        grid_points(dimensions(["training.learning_rate=1e-4..1e-3:log"], Recipe()))
    many = [f"training.lora.rank={','.join(map(str, range(1, 41)))}", f"training.seed={','.join(map(str, range(40)))}"]
    with pytest.raises(RecipeError, match="1,600 points"):
        grid_points(dimensions(many, Recipe()))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31 - 1), number=st.integers(1, 12))
def test_random_points_lie_in_their_ranges_are_all_different_and_follow_the_seed(seed: int, number: int):
    dims = dimensions(["training.learning_rate=1e-5..1e-3:log", "training.lora.rank=4..64:log", "training.epochs=1,2,3"], Recipe())
    points = random_points(dims, number, seed)
    assert points == random_points(dims, number, seed)
    assert len({repr(p) for p in points}) == number
    for p in points:
        assert 1e-5 <= p["training.learning_rate"] <= 1e-3
        assert isinstance(p["training.lora.rank"], int)
        assert 4 <= p["training.lora.rank"] <= 64
    with_settings(Recipe(), points[0])


def test_a_space_of_fewer_points_than_were_asked_for_gives_each_once():
    assert len(random_points(dimensions(["training.lora.rank=8,16"], Recipe()), 10, 0)) == 2
