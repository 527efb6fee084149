"""A model that somebody changed is made of what it was made of again."""

import pytest
import torch
from torch import nn

from edgelora.engine.as_found import AsFound


def changed_child(model):
    model[0] = nn.Identity()


def changed_weight(model):
    model[1].weight = nn.Parameter(torch.zeros(4))
    model[1].extra = nn.Parameter(torch.zeros(1))


def changed_buffer(model):
    model[1].running_mean = torch.ones(4)
    model[1].register_buffer("extra", torch.ones(1))


def changed_setting(model):
    model.eval()
    model.requires_grad_(False)


@pytest.mark.parametrize("change", [changed_child, changed_weight, changed_buffer, changed_setting])
def test_what_was_changed_is_given_back(change):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)

    def state():
        modules = [(name, id(module), module.training) for name, module in model.named_modules()]
        tensors = [(name, id(each)) for name, each in model.state_dict(keep_vars=True).items()]
        return modules, tensors, [each.requires_grad for each in model.parameters()]

    before, found = state(), AsFound(model)
    change(model)
    assert state() != before
    found.give_back()
    assert state() == before
