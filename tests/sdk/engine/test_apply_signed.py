"""The trust policy is asked when an adapter is applied, before the base is even looked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from adapter_folders import write_adapter
from fake_distributions import FakeEnvironment
from signers import ed25519, signed_adapter

from edgelora.engine.adopting import adopt
from edgelora.engine.apply import apply, load_adapted
from edgelora.errors import SignatureInvalid, SignatureUntrusted, Unsigned
from edgelora.registry import Registry
from edgelora.signing import NamedKey, sign, trust


@pytest.fixture
def trusted_key() -> None:
    trust(NamedKey("ops", ed25519("one").public, can_sign=False), ["alice"])


def refuse(folder: Path, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_adapted(str(folder), Registry.discover())
    with pytest.raises(error):
        apply(SimpleNamespace(name_or_path="nowhere"), str(folder))


@pytest.mark.usefixtures("trusted_key")
def test_an_adapter_that_the_policy_refuses_is_not_applied(tmp_path: Path) -> None:
    refuse(write_adapter(tmp_path / "bare"), Unsigned)
    refuse(signed_adapter(tmp_path / "stranger", ed25519("two")), SignatureUntrusted)
    tampered = signed_adapter(tmp_path / "tampered", ed25519("one"))
    manifest = tampered / "edgelora.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"Apache-2.0", b"Apache-1.0"))
    refuse(tampered, SignatureInvalid)


@pytest.mark.usefixtures("trusted_key")
def test_no_plugin_is_imported_before_the_policy_has_passed(
    small_peft: Path, tiny_base: Path, registry: Registry, tmp_path: Path, environment: FakeEnvironment
) -> None:
    environment.install_module(
        "curious", f"open({str(tmp_path / 'imported')!r}, 'w')\n@hookimpl\ndef edgelora_adapters(): return []"
    )
    folder = adopt(small_peft, registry, tmp_path / "out", name="alice/small").folder
    model = SimpleNamespace(name_or_path=str(tiny_base))
    for attempt in (lambda: load_adapted(str(folder)), lambda: apply(model, str(folder))):
        with pytest.raises(Unsigned):
            attempt()
        assert not (tmp_path / "imported").exists()
    sign(folder, [ed25519("one")])
    load_adapted(str(folder))
    assert (tmp_path / "imported").exists(), "the plugin is one that is imported"
