import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def source(edgelora) -> str:
    """A LoRA beside one linear of micro, as PEFT saves it."""
    folder = Path("theirs")
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "micro", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    from edgelora import micro

    sizes = json.loads((micro.path() / "config.json").read_text())
    width = sizes["hidden_size"]
    torch.manual_seed(0)
    site = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{site}.lora_A.weight": torch.randn(2, width), f"{site}.lora_B.weight": torch.randn(width, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def test_an_adapter_is_adopted_pushed_and_pulled(edgelora, source):
    ran = edgelora("adopt", source, "--as", "acme/theirs@1.0.0", "--json")
    assert ran.exit_code == 0, ran.err
    assert (ran.document["folder"], ran.document["kind"], ran.document["base"]) == (
        "adopted/theirs",
        "LORA",
        "micro",
    )
    assert "names no licence" in ran.err
    # Without the dot every other command would look for it in a store.
    assert "next: edgelora push ./adopted/theirs acme/theirs@1.0.0" in ran.err
    assert "adopted   sha256:" in edgelora("show", "./adopted/theirs").out
    assert edgelora("push", "adopted/theirs", "acme/theirs@1.0.0").exit_code == 0
    assert edgelora("pull", "acme/theirs").exit_code == 0


def test_what_cannot_be_adopted_exits_7_with_the_reason(edgelora, source):
    path = Path(source, "adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "PREFIX_TUNING"}))
    ran = edgelora("adopt", source)
    assert ran.exit_code == 7
    assert (
        "error[not-adoptable]: this adapter of PEFT's type PREFIX_TUNING cannot be adopted: it puts"
        in ran.err
    )
