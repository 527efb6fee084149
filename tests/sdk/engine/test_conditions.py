"""Threads, and a random state that depends on nothing but seed and step."""

import random

import torch

from edgelora.engine import conditions


def test_threads_leave_room_for_what_else_runs(monkeypatch):
    monkeypatch.setattr(conditions, "available_cores", lambda: 4)
    for others, threads in ((0, 4), (1, 3), (3, 1), (9, 1)):
        monkeypatch.setattr(conditions, "_others_running", lambda others=others: others)
        assert conditions.free_cores() == threads


def test_available_cores_obey_the_affinity_mask(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 3})
    assert 1 <= conditions.available_cores() <= 2


def test_random_state_is_a_function_of_seed_step_and_process():
    def draws(*place):
        conditions.seed_everything(*place)
        return torch.rand(1).item(), random.random()

    assert draws(1, 2, 0) == draws(1, 2, 0)
    assert len({draws(1, 2, 0), draws(1, 3, 0), draws(2, 2, 0), draws(1, 2, 1)}) == 4
