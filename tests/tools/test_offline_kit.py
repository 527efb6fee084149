"""The steps of the kit, with a package made here; `make offline-kit` tries the downloading."""

import hashlib
import importlib.util
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = platform.machine()
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def offline_kit():
    spec = importlib.util.spec_from_file_location("offline_kit", ROOT / "tools" / "offline_kit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """A wheel with one module that prints its version as the command ``edgelora``."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"def main():\n    print('{name} {version}')\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name} = {name}:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def make_kit(offline_kit, out: Path) -> Path:
    write_wheel(out / "wheels", "edgelora", "9.9.11")
    offline_kit.write_requirements(out, out / "wheels")
    offline_kit.write_installer(out, f"linux-{MACHINE}", PYTHON, "light")
    return out


def install(kit: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(kit / "install.sh"), str(target)], capture_output=True, text=True)


def test_every_wheel_is_listed_with_its_digest(offline_kit, tmp_path):
    kit = make_kit(offline_kit, tmp_path)
    wheel = next((kit / "wheels").iterdir())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (kit / "requirements.txt").read_text() == f"edgelora==9.9.11 --hash=sha256:{digest}\n"


@pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason="kits are made for these processors")
def test_the_installer_installs_from_the_folder_alone(offline_kit, tmp_path):
    kit = make_kit(offline_kit, tmp_path / "kit")
    done = install(kit, tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert "edgelora 9.9.11" in done.stdout and "edgelora plugins list" in done.stdout


@pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason="kits are made for these processors")
def test_a_wheel_that_was_changed_is_not_installed(offline_kit, tmp_path):
    kit = make_kit(offline_kit, tmp_path / "kit")
    with zipfile.ZipFile(next((kit / "wheels").iterdir()), "a") as archive:
        archive.writestr("added.py", "")
    done = install(kit, tmp_path / "target")
    assert done.returncode != 0 and "HASH" in done.stderr.upper()


def test_another_processor_is_refused_before_anything_is_written(offline_kit, tmp_path):
    other = "aarch64" if MACHINE == "x86_64" else "x86_64"
    kit = make_kit(offline_kit, tmp_path / "kit")
    offline_kit.write_installer(kit, f"linux-{other}", PYTHON, "light")
    done = install(kit, tmp_path / "target")
    assert done.returncode == 7
    assert f"error: this kit is for {other}, this machine is {MACHINE}" in done.stderr
    assert f"make offline-kit PLATFORM=linux-{MACHINE}" in done.stderr
    assert not (tmp_path / "target").exists()


def test_another_python_is_refused(offline_kit, tmp_path):
    kit = make_kit(offline_kit, tmp_path / "kit")
    offline_kit.write_installer(kit, f"linux-{MACHINE}", "3.99", "light")
    done = install(kit, tmp_path / "target")
    assert done.returncode == 7 and "python3.99 is not installed" in done.stderr


def test_a_torch_that_needs_cuda_is_refused(offline_kit, tmp_path, monkeypatch):
    write_wheel(tmp_path, "torch", "2.13.0", "nvidia-cublas-cu12==12.8; platform_system == 'Linux'")
    monkeypatch.setattr(offline_kit.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(
        SystemExit, match=r"needs nvidia-cublas-cu12.* and more for CUDA\n  fix: add TORCH_INDEX="
    ):
        offline_kit.fetch_torch(["pip", "download"], None, tmp_path)


def test_requirements_of_extras_do_not_count(offline_kit, tmp_path):
    wheel = write_wheel(tmp_path, "torch", "2.13.0", "filelock", "nvidia-x; extra == 'gpu'")
    assert offline_kit.requirements_of(wheel) == ["filelock"]
