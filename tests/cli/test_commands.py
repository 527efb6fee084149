import json
import re
from pathlib import Path

import click
import pytest
import yaml

from edgelora.registry import Registry
from edgelora_cli import dependencies
from edgelora_cli.root import root


def test_plugins_list_names_parts_and_derivatives(edgelora):
    ran = edgelora("plugins", "list")
    assert ran.exit_code == 0
    assert "derivative qlora, quantizer nf4, quantizer fp4" in ran.out


def test_plugins_list_as_json_says_where_each_comes_from(edgelora):
    plugins = {plugin["name"]: plugin for plugin in edgelora("plugins", "list", "--json").document["plugins"]}
    assert plugins["qlora"]["state"] == "ready"
    assert plugins["qlora"]["distribution"] == "edgelora"
    assert {"kind": "quantizer", "name": "nf4"}.items() <= plugins["qlora"]["parts"][0].items()


def test_plugins_list_obeys_only(edgelora, monkeypatch):
    monkeypatch.setenv("EDGELORA_ONLY", "lora,misspelt")
    ran = edgelora("plugins", "list", "--json")
    states = {plugin["name"]: plugin["state"] for plugin in ran.document["plugins"]}
    assert states["lora"] == "ready" and states["qlora"] == "blocked"
    assert "misspelt" in ran.err


def test_plugins_show_lists_every_option_with_its_default(edgelora):
    ran = edgelora("plugins", "show", "qlora")
    assert "block_size = 64" in ran.out and "arXiv:2305.14314" in ran.out


def test_plugins_show_tells_what_parts_can_do_under_the_names_that_fixes_use(edgelora):
    shown = edgelora("plugins", "show", "clora")
    assert "  is Additive, LowRank, HasAuxLosses, HasPast\n" in shown.out
    assert "  refuses AdaptsModel: it sets layers back" in shown.out
    assert "  HasPast: Goes on from adapters that came before" in shown.out
    document = edgelora("plugins", "show", "adalora", "--json").document
    assert document["abilities"]["Prunable"] == "Its rank components can be switched off one by one."
    assert {"Prunable": "it switches rank components off one by one"} in [
        p["needs"] for p in document["parts"]
    ]
    assert "needs an adapter that is Prunable: it" in edgelora("plugins", "show", "adalora").out


def test_plugins_show_of_a_plugin_with_a_wrong_options_target_names_the_plugin(edgelora, environment):
    offer = "[Part(name='odd', target='a:b', options='edgelora.options:BlockwiseOption')]"
    environment.install_module("odd", f"@hookimpl\ndef edgelora_quantizers(): return {offer}")
    assert "quantizer odd" in edgelora("plugins", "list").out
    ran = edgelora("plugins", "show", "odd")
    assert ran.exit_code == 1
    assert ran.err == (
        "error[plugin-bug]: quantizer 'odd' of plugin odd: there is no BlockwiseOption in "
        "edgelora.options, but BlockwiseOptions\n"
        "  fix: upgrade odd (1.0 is installed), or tell its author\n"
    )


def test_plugins_show_of_an_unknown_plugin_names_those_there_are(edgelora):
    installed = ", ".join(sorted(status.name for status in Registry.discover().plugins))
    ran = edgelora("plugins", "show", "qlorra")
    assert ran.exit_code == 7
    installed = ", ".join(sorted(plugin.name for plugin in Registry.discover().plugins))
    assert ran.err == (
        "error[plugin-missing]: no plugin 'qlorra' is installed\n"
        f"  fix: did you mean 'qlora'? installed are: {installed}\n"
    )
    assert "adalora, baseline" in installed


def test_plugins_show_of_what_a_plugin_lacks_leads_to_what_it_offers(edgelora):
    err = edgelora("plugins", "show", "peft:nosuch").err
    assert "? see what peft offers: edgelora plugins show peft; installed are: " in err


@pytest.mark.parametrize("name", ["peft:vera", "vera", "peft:VERA"])
def test_plugins_show_of_a_part_shows_that_part_and_where_it_is_from(edgelora, name):
    ran = edgelora("plugins", "show", name)
    assert ran.exit_code == 0 and ran.out.startswith("peft: ready, from edgelora ")
    assert "adapter vera: " in ran.out and "d_initial = 0.1" in ran.out
    assert "derivative vera: " in ran.out and "boft" not in ran.out
    document = edgelora("plugins", "show", name, "--json").document
    assert [part["name"] for part in document["parts"]] == ["vera"]
    assert [*document["options"]] == ["adapter:vera"]


def test_plugins_show_of_a_name_prefers_the_plugin_then_what_recipes_call_by_that_name_alone(edgelora):
    assert "quantizer nf4: " in edgelora("plugins", "show", "nf4").out
    assert "derivative rslora: " in edgelora("plugins", "show", "lora").out
    # PEFT's HiRA is to be written with its plugin.
    assert edgelora("plugins", "show", "hira").out.startswith("hira: ready")
    assert edgelora("plugins", "show", "svd").out.startswith("adalora: ready")


def test_plugins_show_of_a_name_that_two_plugins_use_asks_which(edgelora, environment):
    offer = "[Part(name='nf4', target='a:b')]"
    environment.install_module("odd", f"@hookimpl\ndef edgelora_quantizers(): return {offer}")
    ran = edgelora("plugins", "show", "nf4")
    assert ran.err == (
        "error[part-ambiguous]: 2 plugins offer 'nf4'\n  fix: show one of odd:nf4, qlora:nf4\n"
    )
    assert edgelora("plugins", "show", "odd:nf4").out.startswith("odd: ready")


def test_recipe_new_writes_a_recipe_that_plans(edgelora):
    made = edgelora("recipe", "new", "my.yaml", "--derivative", "qlora", "--data", "rows: odd #1.jsonl")
    assert made.exit_code == 0 and "edgelora plan my.yaml" in made.err
    document = yaml.safe_load(Path("my.yaml").read_text())
    assert document["data"] == [{"path": "rows: odd #1.jsonl", "held_out": 0.05}]
    assert document["out"] == "runs/my"
    Path("rows: odd #1.jsonl").touch()
    assert edgelora("plan", "my.yaml").exit_code == 0


def test_recipe_new_starts_with_the_ranks_of_the_derivative(edgelora):
    assert edgelora("recipe", "new", "my.yaml", "--derivative", "adalora").exit_code == 0
    adapter = yaml.safe_load(Path("my.yaml").read_text())["adapter"]
    # More than the 16 that its scheduler leaves, or nothing would be pruned.
    assert (adapter["rank"], adapter["alpha"]) == (24, 24)


def test_recipe_new_for_an_adapter_of_the_whole_model_says_where_its_options_are(edgelora):
    assert edgelora("recipe", "new", "--derivative", "peft:vera").exit_code == 0
    written = Path("recipe.yaml").read_text()
    assert "# its options: edgelora plugins show peft:vera" in written
    assert edgelora("plan", "recipe.yaml", "--set", "data=[]").exit_code == 0


def test_plugins_show_tells_what_cannot_be_used_and_list_counts_what_a_library_has(edgelora):
    shown = edgelora("plugins", "show", "peft").out
    assert "cannot be used: it mixes adapters" in shown and "d_initial = 0.1" in shown
    assert "adapters as peft:NAME" in edgelora("plugins", "list").out


def test_recipe_new_makes_a_task_of_each_of_several_files(edgelora):
    files = ("--data", "pumps.jsonl", "--data", "my valves.jsonl")
    assert edgelora("recipe", "new", "my.yaml", "--derivative", "mtlora", *files).exit_code == 0
    data = yaml.safe_load(Path("my.yaml").read_text())["data"]
    assert [source["task"] for source in data] == ["pumps", "my-valves"]


def test_plan_of_a_data_file_that_is_not_there_names_it(edgelora):
    Path("recipe.yaml").write_text("{base: micro, data: [{path: rows.jsonl}]}")
    ran = edgelora("plan", "recipe.yaml")
    assert ran.exit_code == 4
    assert ran.err.startswith("error[file-not-found]: there is no data file ") and "rows.jsonl" in ran.err


@pytest.mark.parametrize(
    ("derivative", "changes", "problem"),
    [
        ("mtlora", "loss_combiner.weights={min: 2}", "names 'min', which is no task of the data"),
        ("mtlora", "adapter.task_rank_pattern={man: 2}", "names 'man', which is no task of the data"),
        ("mtlora", "loss_combiner.weights={main: 0}", "0 for every task"),
        ("adalora", "rank_scheduler.target_rank=99", "target_rank 99 is more than the 24 ranks per site"),
        ("adalora", "rank_scheduler.warmup_steps=400", "400 warmup and 90 final steps leave none of 300"),
        ("dora", "adapter.target_modules=[q_proj, embed_tokens]", "names model.embed_tokens, an embedding"),
    ],
)
def test_plan_refuses_options_that_do_not_suit_the_rest(edgelora, derivative, changes, problem):
    Path("rows.jsonl").touch()
    Path("recipe.yaml").write_text(
        f"{{derivative: {derivative}, base: micro, data: [{{path: rows.jsonl}}], train: {{max_steps: 300}}}}"
    )
    ran = edgelora("plan", "recipe.yaml", "--set", changes)
    assert ran.exit_code == 3 and problem in ran.err


@pytest.mark.parametrize(
    ("derivative", "evaluator", "problem"),
    [
        ("full", "merge-error", "and adapter 'weights' has none that do"),
        ("bottleneck", "merge-error", "and adapter 'bottleneck' has none that do"),
        ("lora", "code-entropy", "codes of a quantized base, and 'none' makes none"),
    ],
)
def test_plan_refuses_evaluators_that_would_measure_nothing(edgelora, derivative, evaluator, problem):
    Path("rows.jsonl").touch()
    Path("recipe.yaml").write_text(
        f"{{derivative: {derivative}, base: micro, data: [{{path: rows.jsonl}}], evaluators: [{evaluator}]}}"
    )
    ran = edgelora("plan", "recipe.yaml")
    assert ran.exit_code == 7 and problem in ran.err and f"leave {evaluator} out" in ran.err


def test_plan_of_a_base_that_is_not_there_names_it(edgelora):
    Path("recipe.yaml").write_text("{base: ./absent}")
    ran = edgelora("plan", "recipe.yaml")
    assert ran.exit_code == 4 and "there is no base model folder ./absent" in ran.err
    ran = edgelora("plan", "recipe.yaml", "--set", "base=~nobody-of-this-name/model")
    assert ran.exit_code == 4 and "there is no base model folder ~nobody-of-this-name/model" in ran.err
    ran = edgelora("plan", "recipe.yaml", "--set", "base=OWNER/NAME")
    assert ran.exit_code == 0 and "left to train   whether OWNER/NAME is on this machine, that" in ran.out


def test_plan_says_what_is_left_to_train_and_which_names_the_base_seems_to_lack(edgelora):
    Path("recipe.yaml").write_text(
        "{derivative: lora, base: micro, adapter: {target_modules: [q_prj, v_proj]}}"
    )
    ran = edgelora("plan", "recipe.yaml")
    assert ran.exit_code == 0
    assert "left to train   that the base loads and has linears of the names and ranks asked for" in ran.out
    note = "adapter.target_modules: no tensor of the base is of a 'q_prj'; did you mean 'q_proj'?"
    assert f"note            {note}" in ran.out
    assert edgelora("plan", "recipe.yaml", "--json").document["notes"] == [note]


def test_recipe_new_never_replaces_a_file(edgelora):
    Path("recipe.yaml").write_text("mine")
    ran = edgelora("recipe", "new")
    assert ran.exit_code == 3
    assert ran.err == (
        "error[target-exists]: recipe.yaml exists already\n  fix: choose another name, or delete it first\n"
    )
    assert Path("recipe.yaml").read_text() == "mine"


def test_recipe_schema_is_a_json_schema(edgelora):
    assert json.loads(edgelora("recipe", "schema").out)["properties"]["derivative"]["default"] == "lora"


def test_plan_shows_parts_with_options(edgelora):
    Path("recipe.yaml").write_text("{derivative: qlora, base: micro, data: [{path: a.jsonl}]}")
    Path("a.jsonl").touch()
    ran = edgelora("plan", "recipe.yaml", "--set", "adapter.rank=4", "--json")
    assert ran.document["parts"]["quantizer"]["name"] == "nf4"
    assert ran.document["parts"]["adapter"]["options"]["rank"] == 4
    shown = edgelora("plan", "recipe.yaml").out
    assert "nf4" in shown and "rank=16, alpha=16.0" in shown


def test_plan_of_a_missing_recipe_says_how_to_write_one(edgelora):
    ran = edgelora("plan", "absent.yaml")
    assert (ran.exit_code, ran.out) == (4, "")
    assert ran.err == (
        "error[file-not-found]: there is no recipe absent.yaml\n  fix: write one with: edgelora recipe new\n"
    )


def test_plan_of_an_unknown_key_names_the_nearest(edgelora):
    Path("recipe.yaml").write_text("{base: micro, train: {max_step: 3}}")
    ran = edgelora("plan", "recipe.yaml")
    assert ran.exit_code == 3
    assert "unknown key 'train.max_step'" in ran.err and "did you mean 'max_steps'?" in ran.err


def test_stores_are_added_listed_and_removed(edgelora, tmp_path):
    assert edgelora("stores", "add", "usb", str(tmp_path / "usb"), "--default").exit_code == 0
    listed = edgelora("stores", "list", "--json").document["stores"]
    assert {
        "name": "usb",
        "address": f"file://{tmp_path / 'usb'}",
        "default": True,
        "token_env": None,
    } in listed
    assert "local" in [store["name"] for store in listed]
    assert edgelora("stores", "remove", "usb").exit_code == 0
    ran = edgelora("stores", "remove", "usb")
    assert ran.exit_code == 4
    assert "error[store-not-found]: no store is named 'usb'" in ran.err


def test_doctor_tells_versions_devices_and_folders(edgelora, tmp_path):
    report = edgelora("doctor", "--json").document
    assert report["packages"]["click"] and report["folders"]["home"] == str(tmp_path / "home")
    assert {"name", "state", "cause", "fix"} == report["plugins"][0].keys()
    assert "nothing is missing" in edgelora("doctor").out


def test_doctor_says_how_to_get_what_is_missing(edgelora, monkeypatch):
    monkeypatch.setattr("edgelora_cli.doctor.TRAIN", ("no-such-package",))
    ran = edgelora("doctor")
    assert "for training, install no-such-package: pip install 'edgelora[train]'" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [("train", "recipe.yaml"), ("evaluate", "recipe.yaml"), ("generate", "hello"),
     ("merge", "--adapter", "a/b", "--out", "merged"), ("quickstart",)],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_without_the_train_extra_the_command_to_type_is_named(edgelora, monkeypatch, arguments):
    monkeypatch.setattr(dependencies, "NEEDED", ("no_such_torch",))
    Path("recipe.yaml").write_text("{base: micro, data: [{path: a.jsonl}]}")
    ran = edgelora(*arguments)
    assert ran.exit_code == 7
    assert ran.err.startswith("error[dependency-missing]: ")
    assert "needs no_such_torch, which is not installed" in ran.err
    assert "pip install 'edgelora[train]'" in ran.err
    assert "--index-url https://download.pytorch.org/whl/cpu" in ran.err


def test_generate_without_a_prompt_is_a_usage_error(edgelora, monkeypatch):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    ran = edgelora("generate")
    assert ran.exit_code == 2 and "there is no prompt" in ran.err


def test_a_gate_that_is_not_one_is_a_usage_error(edgelora):
    Path("recipe.yaml").write_text("{base: micro}")
    ran = edgelora("evaluate", "recipe.yaml", "--gate", "accuracy=1")
    assert ran.exit_code == 2 and "METRIC>=BAR" in ran.err


def test_train_refuses_to_resume_and_overwrite_at_once(edgelora):
    ran = edgelora("train", "recipe.yaml", "--resume", "--overwrite")
    assert ran.exit_code == 2 and "exclude each other" in ran.err


def commands(group, context, path=()):
    """Every command by the words a user types, but for the program's name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, context, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_the_reference_has_the_members_of_every_commands_json():
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md").read_text()
    told = [name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in row.split(", ")]
    with click.Context(root) as context:
        takes = [
            f"`{name}`"
            for name, command in commands(root, context)
            if any("--json" in parameter.opts for parameter in command.params)
        ]
    assert sorted(told) == sorted(takes)
