"""Algorithm 4: weights of layers that follow their gradients."""

import io

import pytest
import torch
from torch import nn

from edgelora import Registry
from edgelora.engine.optimizer import make_schedule
from edgelora.errors import CombinationError
from edgelora.plan import make_plan
from edgelora.protocols import TrainingRun
from edgelora.recipe import TrainSettings, make_recipe
from edgelora_plugins.yugopuspito2024.importance import GradientImportance
from edgelora_plugins.yugopuspito2024.options import ImportanceOptions

RUN = TrainingRun(total_steps=20, seed=0, tasks=("main",))


def two_sites(make, **arguments):
    """Layers ``a`` and ``b`` of one parameter each, with a group of their own, and one of no site."""
    torch.manual_seed(0)
    layers = {name: nn.ParameterList([nn.Parameter(torch.randn(4))]) for name in "ab"}
    groups = [{"params": list(layer), "site": site} for site, layer in layers.items()]
    groups.append({"params": [nn.Parameter(torch.zeros(1))], "site": "", "lr": 0.5})
    return layers, make(groups, **arguments)


def scheduler_over(layers, optimizer, **options):
    made = GradientImportance(ImportanceOptions(**options))
    made.attach(layers, optimizer, RUN)
    return made


def set_gradients(layers, **magnitudes):
    for site, magnitude in magnitudes.items():
        (parameter,) = layers[site]
        parameter.grad = magnitude * torch.tensor([1.0, -1.0, 1.0, -1.0])


def update(scheduler, optimizer, step=0):
    scheduler.before_forward(step)
    scheduler.before_update(step)
    optimizer.step()
    scheduler.after_update(step)


def test_golden_weights_of_a_sequence_of_magnitudes():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.0)
    scheduler = scheduler_over(layers, optimizer, metric="magnitude")
    found = []
    for step, magnitude in enumerate((2, 2, 2, 0.5)):
        set_gradients(layers, a=magnitude)
        update(scheduler, optimizer, step)
        found.append(scheduler.weights["a"])
    assert found == pytest.approx([1.1, 1.19, 1.271, 1.1939])
    assert scheduler.weights["b"] == 1.0  # it had no gradient


def test_under_a_constant_magnitude_a_weight_goes_to_it():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.0)
    scheduler = scheduler_over(layers, optimizer, metric="magnitude", decay=0.8)
    for step in range(10):
        set_gradients(layers, a=3.0)
        update(scheduler, optimizer, step)
        assert scheduler.weights["a"] == pytest.approx(3 + (1 - 3) * 0.8 ** (step + 1))


def test_relative_weights_stay_around_one_however_small_the_gradients():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.0)
    scheduler = scheduler_over(layers, optimizer)
    for step in range(100):
        set_gradients(layers, a=3e-6, b=1e-6)
        update(scheduler, optimizer, step)
    assert scheduler.weights == pytest.approx({"a": 1.5, "b": 0.5}, abs=1e-3)


def test_gradients_of_zero_weigh_nothing_away():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.0)
    scheduler = scheduler_over(layers, optimizer)
    set_gradients(layers, a=0.0, b=0.0)
    update(scheduler, optimizer)
    assert scheduler.weights == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("metric", ["relative", "magnitude"])
def test_under_sgd_a_layers_update_is_its_weight_times_the_plain_one(metric):
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.1)
    scheduler = scheduler_over(layers, optimizer, metric=metric)
    for step in range(5):
        before = {site: layer[0].detach().clone() for site, layer in layers.items()}
        set_gradients(layers, a=2.0 + step, b=0.5)
        update(scheduler, optimizer, step)
        for site, (parameter,) in layers.items():
            expected = before[site] - 0.1 * scheduler.weights[site] * parameter.grad
            torch.testing.assert_close(parameter.detach(), expected)


def test_under_adamw_it_makes_the_difference_that_a_factor_of_the_gradient_does_not():
    def trained(act):
        layers, optimizer = two_sites(torch.optim.AdamW, lr=0.01, weight_decay=0.0)
        for step in range(10):
            set_gradients(layers, a=3.0, b=1.0)
            act(layers, optimizer, step)
        return torch.cat([layers[site][0].detach() for site in "ab"])

    schedulers = {}

    def weigh_rates(layers, optimizer, step):
        scheduler = schedulers.setdefault("one", scheduler_over(layers, optimizer))
        update(scheduler, optimizer, step)

    def weigh_gradients(layers, optimizer, step):
        layers["a"][0].grad *= 1.5
        layers["b"][0].grad *= 0.5
        optimizer.step()

    plain = trained(lambda layers, optimizer, step: optimizer.step())
    torch.testing.assert_close(trained(weigh_gradients), plain, rtol=0, atol=1e-6)
    assert ((trained(weigh_rates) - plain).abs() > 0.01).all()


def test_the_learning_rate_schedule_goes_on_from_its_own_rates():
    settings = TrainSettings(max_steps=20, schedule="cosine", learning_rate=0.1)
    rates = {}
    for name in ("plain", "weighed"):
        layers, optimizer = two_sites(torch.optim.SGD, lr=0.1)
        schedule = make_schedule(optimizer, settings, 20)
        scheduler = scheduler_over(layers, optimizer) if name == "weighed" else None
        rates[name] = []
        for step in range(20):
            set_gradients(layers, a=3.0, b=1.0)
            if scheduler:
                scheduler.before_update(step)
                assert optimizer.param_groups[0]["lr"] == rates["plain"][step][0] * scheduler.weights["a"]
                assert optimizer.param_groups[2]["lr"] == rates["plain"][step][2]
                scheduler.after_update(step)
            rates[name].append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    assert rates["weighed"] == rates["plain"]


def test_every_group_of_a_site_has_its_weight():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [first], "site": "a"}, {"params": [second], "site": "a", "lr": 1.6}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = scheduler_over({}, optimizer, metric="magnitude", decay=0.0)
    first.grad, second.grad = torch.full((2,), 1.0), torch.full((2,), 3.0)
    scheduler.before_update(0)
    assert scheduler.weights == {"a": 2.0}
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 3.2])


def test_it_acts_on_the_groups_that_a_resumed_optimizer_has():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.1)
    scheduler = scheduler_over(layers, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    set_gradients(layers, a=3.0, b=1.0)
    scheduler.before_update(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.105, 0.095, 0.5])


def test_its_state_comes_back_bitwise():
    layers, optimizer = two_sites(torch.optim.SGD, lr=0.1)
    scheduler = scheduler_over(layers, optimizer)
    set_gradients(layers, a=0.3, b=0.1)
    update(scheduler, optimizer)
    buffer = io.BytesIO()
    torch.save(scheduler.state_dict(), buffer)
    buffer.seek(0)
    again = scheduler_over(layers, optimizer)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert again.weights == scheduler.weights


def test_a_derivative_names_it():
    recipe = make_recipe({"derivative": "gradient-importance", "base": "micro"})
    plan = make_plan(recipe, Registry.discover())
    assert isinstance(plan.build("rank_scheduler"), GradientImportance)


def test_an_adapter_of_the_whole_model_is_refused_for_it_has_no_layers_to_weigh():
    document = {"base": "micro", "data": [{"path": "rows.jsonl"}], "rank_scheduler": "gradient-importance"}
    with pytest.raises(CombinationError, match="adapter 'weights', which is AdaptsModel: it weighs layers"):
        make_plan(make_recipe(document | {"adapter": "full:weights"}), Registry.discover())
