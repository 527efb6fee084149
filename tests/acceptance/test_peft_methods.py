"""Every method of the installed PEFT: trained, published, and the same in a fresh process; or refused."""

import peft
import pytest
from peft_runs import file_names, logits_afresh, publish, recipe_of, save_base, stock_logits, train

from edgelora.errors import PlanError
from edgelora.plan import make_plan
from edgelora.registry import Registry
from edgelora_plugins.peft.methods import METHODS

pytestmark = pytest.mark.acceptance

USABLE = [name for name, method in METHODS.items() if not method.unusable]


def difference(logits, expected):
    return float((logits - expected).abs().max())


def test_each_method_is_the_same_in_a_fresh_process_and_in_stock_peft(tmp_path):
    registry = Registry.discover()
    base, rows = save_base(tmp_path)
    store = f"file://{tmp_path / 'mirror'}"
    trained, folders = {}, {}
    for name in USABLE:
        folder, trained[name] = train(recipe_of(name, base, rows, tmp_path / name), registry)
        assert file_names(folder) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors", "edgelora.json",
        ]  # fmt: skip
        folders[name] = publish(folder, name, store)
    afresh = logits_afresh(folders, base, tmp_path)
    wrong = {name: each for name, each in afresh.items() if isinstance(each, str)}
    assert wrong == {}
    apart = {name: difference(afresh[name], trained[name]) for name in USABLE}
    stock = {name: difference(stock_logits(folders[name], base), trained[name]) for name in USABLE}
    print(f"PEFT {peft.__version__}: {len(USABLE)} of {len(METHODS)} methods trained, published and applied")
    for name in USABLE:
        print(f"  {name}: {apart[name]:.1e} apart in a fresh process, {stock[name]:.1e} in stock PEFT")
    assert max(apart.values()) <= 1e-6
    assert max(stock.values()) <= 1e-5
    assert len(USABLE) >= 30


@pytest.mark.parametrize("name", sorted(METHODS.keys() - USABLE))
def test_each_other_method_is_refused_with_its_reason(name, tmp_path):
    with pytest.raises(PlanError, match=f"adapter peft:{name} cannot be used: ") as caught:
        make_plan(recipe_of(name, "micro", tmp_path / "rows", tmp_path, derivative="lora",
                            adapter={"name": f"peft:{name}"}), Registry.discover())  # fmt: skip
    print(caught.value.problem)
