"""Steps of the quickstart that need no training."""

from pathlib import Path

import pytest
from adapter_folders import write_adapter

from edgelora.engine.job import recipe_digest
from edgelora.manifest import MANIFEST_NAME, Training, manifest_bytes, read_manifest
from edgelora.manifest.base_identity import identify_base
from edgelora.micro import path as micro_path
from edgelora.transfer import remove
from edgelora_cli.quickstart_steps import Quickstart


@pytest.fixture
def job(tmp_path: Path) -> Quickstart:
    return Quickstart(tmp_path / "quickstart", "lora", 1, quiet=True)


def test_another_adapter_is_pushed_under_the_version_after_the_newest(job):
    write_adapter(job.adapter, version="1.0.0-rc.1", seed=1)
    job.push()
    write_adapter(job.adapter, version="1.0.0-rc.1", seed=2)
    job.reference = "quickstart/decimals-lora"
    assert job.push().startswith("quickstart/decimals-lora@1.0.0 published")


def test_the_version_of_an_adapter_that_was_removed_is_not_taken_again(job):
    write_adapter(job.adapter, version="1.0.0", seed=1)
    job.push()
    remove(job.reference, job.mirror.as_uri())
    write_adapter(job.adapter, version="1.0.0", seed=2)
    job.reference = "quickstart/decimals-lora"
    assert job.push().startswith("quickstart/decimals-lora@1.0.1 published")


def test_an_adapter_is_reused_only_when_its_run_was_finished_on_these_rows(job):
    write_adapter(job.adapter)
    manifest = read_manifest(job.adapter / MANIFEST_NAME)
    training = Training(seed=1, steps=1, recipe_digest=recipe_digest(job.plan))
    made = manifest.model_copy(update={"base": identify_base(micro_path()), "training": training})
    (job.adapter / MANIFEST_NAME).write_bytes(manifest_bytes(made))
    assert not job._is_trained()
    job.folder.remember_training("lora")
    assert job._is_trained() and "reused" in job.train()
    job.folder.rows.write_bytes(job.folder.rows.read_bytes() + b"\n")
    assert not job._is_trained()
