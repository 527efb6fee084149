"""What published adapters learned, read from their files alone."""

import json
import os

import pytest
import torch
from tiny_models import save_llama, save_tokenizer

from edgelora.engine.analysis import (
    amplifications,
    draw_amplifications,
    draw_similarities,
    published_factors,
    similarities,
    source_of,
)
from edgelora.engine.apply import load_adapted
from edgelora.errors import DependencyMissing, ExportUnsupported, PlanError, WrongBase
from edgelora.protocols import Factors
from edgelora.run import run
from edgelora_cli import run_command

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapters(recipe, registry, tmp_path):
    """Two of different rank, and one whose scale differs from site to site."""
    few = {"max_steps": 2}
    pattern = {"rank": 4, "alpha": 8, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3.3}}
    made = {
        "small": recipe(few, adapter={"rank": 2}, out=str(tmp_path / "small"), evaluators=[]),
        "patterns": recipe(few, adapter=pattern, out=str(tmp_path / "patterns"), evaluators=[]),
    }
    return {name: str(run(each, registry).folder) for name, each in made.items()}


def test_the_factors_of_a_file_are_those_of_the_layers(adapters, tiny_base, registry):
    layers = load_adapted(adapters["patterns"], registry, base=str(tiny_base)).layers
    found = published_factors(adapters["patterns"])
    assert found.keys() == layers.keys()
    for site, (A, B, scaling) in found.items():
        own = layers[site].factors()
        assert torch.equal(A, own.A) and torch.equal(B, own.B)
        assert scaling == pytest.approx(own.scaling)


def test_sites_of_both_adapters_are_compared(adapters):
    first, second = (published_factors(adapters[name]) for name in ("small", "patterns"))
    found = similarities(first, second, sites=["q_proj", "v_proj"], components=3)
    assert [each.site.rpartition(".")[2] for each in found] == ["q_proj", "v_proj"] * 2
    assert [tuple(each.phi.shape) for each in found] == [(2, 2), (2, 3)] * 2
    itself = similarities(first, first)
    assert len(itself) == 14
    assert all(float(each.phi[-1, -1]) == pytest.approx(1.0) for each in itself)


def test_what_cannot_be_compared_is_refused(adapters):
    first = published_factors(adapters["small"])
    with pytest.raises(PlanError, match="no site to look at is named r_proj") as caught:
        similarities(first, first, sites=["r_proj"])
    assert "q_proj" in caught.value.fix
    with pytest.raises(PlanError, match="the adapters share no site"):
        similarities(first, {"elsewhere": first[Q]})
    wider = {Q: Factors(torch.randn(2, 100), torch.randn(8, 2), 1.0)}
    with pytest.raises(PlanError, match=f"{Q} takes 64 numbers in one adapter and 100 in the other"):
        similarities(first, wider)
    with pytest.raises(PlanError, match=rf"{Q} of the base is \(3, 3\), not \(64, 64\), as it is adapted"):
        amplifications(first, lambda site: torch.zeros(3, 3), sites=[Q])


def test_an_adapter_that_two_factors_do_not_tell_is_refused(recipe, registry, tmp_path):
    dora = run(recipe({"max_steps": 1}, derivative="dora", evaluators=[]), registry)
    with pytest.raises(ExportUnsupported, match="is not published as plain LoRA") as caught:
        published_factors(str(dora.folder))
    assert caught.value.fix.startswith("look at one that is")


def test_lora_over_a_base_of_its_own_is_led_to_plain_lora(recipe, registry):
    made = run(recipe({"max_steps": 1}, derivative="lora", quantizer="nf2", evaluators=[]), registry)
    with pytest.raises(ExportUnsupported, match="is not published as plain LoRA") as caught:
        published_factors(str(made.folder))
    assert (
        caught.value.fix
        == f"make it so: edgelora export peft {made.folder} --out DIR, then edgelora adopt DIR"
    )


def test_embeddings_are_left_out(recipe, registry, tmp_path):
    folders = []
    for number, modules in enumerate((["embed_tokens", "q_proj"], ["embed_tokens"])):
        adapter = {"rank": 2, "target_modules": modules}
        out = str(tmp_path / str(number))
        folders.append(
            run(recipe({"max_steps": 2}, adapter=adapter, out=out, evaluators=[]), registry).folder
        )
    assert Q in published_factors(str(folders[0])) and len(published_factors(str(folders[0]))) == 2
    with pytest.raises(
        ExportUnsupported, match="changes embeddings alone, and linears are what is looked at"
    ):
        published_factors(str(folders[1]))


def test_amplification_is_over_the_base_it_was_trained_on(adapters, tiny_base, tmp_path):
    factors = published_factors(adapters["small"])
    found = amplifications(factors, source_of(adapters["small"], str(tiny_base)))
    assert len(found) == 14
    for each in found:
        A, B, scaling = factors[each.site]
        assert each.found.change == pytest.approx(float((scaling * B @ A).norm()), rel=1e-4)
        assert each.found.factor == pytest.approx(each.found.change / each.found.along_change)
    save_tokenizer(tmp_path / "other")
    save_llama(tmp_path / "other", seed=1)
    with pytest.raises(WrongBase):
        source_of(adapters["small"], str(tmp_path / "other"))


def test_the_command_prints_numbers_and_draws_the_same_picture_twice(adapters, tiny_base, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    similarity = ["similarity", adapters["small"], adapters["patterns"], "--site", "q_proj"]
    amplification = ["amplification", adapters["small"], "--base", str(tiny_base), "--site", "q_proj"]
    for command, ending in ((similarity, "svg"), (similarity, "png"), (amplification, "svg")):
        pictures = [tmp_path / f"{number}.{ending}" for number in (1, 2)]
        for picture in pictures:
            assert run_command(["analyze", *command, "--picture", str(picture), "--json"]) == 0
            document = json.loads(capsys.readouterr().out)
            assert len(document["sites"]) == 2 and document["picture"] == str(picture)
        first, second = (picture.read_bytes() for picture in pictures)
        assert first == second and first.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
        assert run_command(["analyze", *command]) == 0
        assert Q in capsys.readouterr().out


def test_a_picture_of_another_kind_and_without_matplotlib_is_refused(adapters, tmp_path, monkeypatch):
    factors = published_factors(adapters["small"])
    found = similarities(factors, factors)
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(DependencyMissing, match="drawing needs matplotlib") as caught:
            draw_similarities(found, ("a", "b"), tmp_path / "a.png")
        assert caught.value.fix == "pip install 'edgelora[pictures]'"
    pytest.importorskip("matplotlib")
    for draw in (
        lambda path: draw_similarities(found, ("a", "b"), path),
        lambda path: draw_amplifications([], "a", path),
    ):
        with pytest.raises(PlanError, match=r"as PNG or SVG, not as a\.pdf"):
            draw(tmp_path / "a.pdf")


def test_a_picture_is_replaced_whole_and_its_name_is_read_first(tmp_path, capsys):
    assert run_command(["analyze", "similarity", "nobody", "nowhere", "--picture", "a.pdf"]) == 3
    assert "as PNG or SVG, not as a.pdf" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    from edgelora.engine.analysis import pictures

    class Failing:
        def savefig(self, file, **settings):
            file.write(b"half")
            raise OSError("no more")

    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="no more"):
        pictures._save(Failing(), path)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.png"]
