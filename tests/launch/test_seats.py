"""How the envs of a run are shared out: pure arithmetic, checked for every case that it must hold in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from multiserverrl.errors import ConfigError
from multiserverrl.launch.seats import Offer, Seats, take_seats


def seats_at(url: str, seats: Seats) -> int:
    exploring = sum(group.num_envs for group in seats.groups if group.url == url)
    evaluating = seats.evaluation_envs if seats.evaluation_url == url and not seats.is_borrowed else 0
    return exploring + evaluating


def test_what_is_free_beyond_the_count_evaluates_so_that_all_of_the_count_explore() -> None:
    seats = take_seats([Offer("a", 84)], 64, explorers=1, evaluation_envs=20)
    assert seats.num_envs == 64
    assert seats.evaluation_envs == 20
    assert [group.num_envs for group in seats.groups] == [32, 32]


def test_without_spare_envs_an_eighth_of_the_count_evaluates() -> None:
    seats = take_seats([Offer("a", 64)], 64, explorers=1, evaluation_envs=20)
    assert (seats.num_envs, seats.evaluation_envs) == (56, 8)


def test_no_count_takes_all_that_are_free() -> None:
    seats = take_seats([Offer("a", 5), Offer("b", 5)], None, explorers=1, evaluation_envs=20)
    assert seats_at("a", seats) == 5
    assert seats_at("b", seats) == 5


def test_two_envs_are_one_to_explore_and_one_to_evaluate() -> None:
    seats = take_seats([Offer("a", 2)], 2, explorers=1, evaluation_envs=20)
    assert (seats.num_envs, seats.evaluation_envs, seats.is_borrowed) == (1, 1, False)


def test_the_only_env_is_borrowed_for_evaluation() -> None:
    seats = take_seats([Offer("a", 1)], 1, explorers=1, evaluation_envs=20)
    assert (seats.num_envs, seats.evaluation_envs, seats.is_borrowed) == (1, 1, True)


def test_one_env_with_others_to_spare_borrows_nothing() -> None:
    seats = take_seats([Offer("a", 4)], 1, explorers=1, evaluation_envs=20)
    assert (seats.num_envs, seats.evaluation_envs, seats.is_borrowed) == (1, 3, False)


def test_asking_for_more_than_there_are_names_both_numbers_and_the_servers() -> None:
    with pytest.raises(ConfigError, match=r"--count asks for 9 environments, 8 are free at http://a, http://b"):
        take_seats([Offer("http://a", 4), Offer("http://b", 4)], 9, explorers=1, evaluation_envs=20)


def test_servers_without_a_free_env_are_named() -> None:
    with pytest.raises(ConfigError, match="no environment is free at http://a"):
        take_seats([Offer("http://a", 0)], None, explorers=1, evaluation_envs=20)


def test_more_explorers_than_envs_are_refused() -> None:
    with pytest.raises(ConfigError, match="--explorers 5 is more than the 4"):
        take_seats([Offer("a", 24)], 4, explorers=5, evaluation_envs=20)


@given(
    free=some.lists(some.integers(0, 40), min_size=1, max_size=4),
    wish=some.integers(1, 160) | some.none(),
    explorers=some.integers(1, 4),
    evaluation_envs=some.integers(1, 30),
)
def test_seats_are_never_more_than_offered_and_explore_in_full_groups(
    free: list[int], wish: int | None, explorers: int, evaluation_envs: int
) -> None:
    offers = [Offer(f"server{index}", seats) for index, seats in enumerate(free)]
    try:
        seats = take_seats(offers, wish, explorers, evaluation_envs)
    except ConfigError:
        total = sum(free)
        assert total == 0 or (wish or 0) > total or explorers >= (wish or total) - (wish or total) // 8
        return
    count = sum(free) if wish is None else wish
    for offer in offers:
        assert seats_at(offer.url, seats) <= offer.free
    assert seats.num_envs + (seats.evaluation_envs if sum(free) == count and count > 1 else 0) == count
    assert 1 <= seats.evaluation_envs <= 20
    assert all(group.num_envs >= 1 for group in seats.groups)
    assert {group.explorer for group in seats.groups} == set(range(explorers))
    assert [group.number for group in seats.groups] == list(range(len(seats.groups)))
    assert len(seats.groups) >= min(2 * explorers, seats.num_envs)
