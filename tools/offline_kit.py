"""Write one folder that installs edgelora on a machine without a network.

The folder holds the wheels of edgelora and of everything it needs for one platform, a list of their hashes,
the documentation, and ``install.sh``. The built-in base model and the quickstart's data are inside edgelora's
wheel. torch is the CPU build; a build that would pull in CUDA is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {"linux-x86_64": "x86_64", "linux-aarch64": "aarch64"}
GLIBC = ("2_28", "2_27", "2_26", "2_24", "2_17")
DOCUMENTS = ("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "docs", "examples")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    """Write the kit, or say what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--platform", choices=PLATFORMS, required=True)
    parser.add_argument("--extra", choices=("train", "light"), default="train")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--torch-index", help=f"where torch comes from, such as {CPU_INDEX}")
    parser.add_argument("--out", type=Path, default=Path("offline-kit"))
    kit = parser.parse_args()
    wheels = kit.out / "wheels"
    shutil.rmtree(kit.out, ignore_errors=True)
    wheels.mkdir(parents=True)
    shutil.copy2(kit.wheel, wheels)
    download = pip_download(wheels, PLATFORMS[kit.platform], kit.python)
    if kit.extra == "train":
        fetch_torch(download, kit.torch_index, wheels)
    subprocess.run([*download, f"{kit.wheel}{'[train]' if kit.extra == 'train' else ''}"], check=True)
    write_requirements(kit.out, wheels)
    copy_documents(kit.out)
    write_installer(kit.out, kit.platform, kit.python, kit.extra)
    size = sum(path.stat().st_size for path in kit.out.rglob("*") if path.is_file())
    count = len(list(wheels.glob("*.whl")))
    print(f"{kit.out}: {count} wheels, {size / 2**20:,.0f} MiB; copy it over and run: sh install.sh")


def pip_download(wheels: Path, machine: str, python: str) -> list[str]:
    """The ``pip download`` command for one platform: wheels only, versions from constraints.txt."""
    abi = f"cp{python.replace('.', '')}"
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC]
    platforms += [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(wheels)),
        *platforms,
        *(f"--python-version={python}", "--implementation=cp", f"--abi={abi}", "--abi=abi3", "--abi=none"),
        *("--constraint", str(ROOT / "constraints.txt"), "--find-links", str(wheels)),
    ]


def fetch_torch(download: list[str], index: str | None, wheels: Path) -> None:
    """Bring torch alone, first, so that the CPU build is chosen."""
    chosen = ["--index-url", index] if index else []
    subprocess.run([*download, *chosen, "--no-deps", "torch"], check=True)
    torch = next(wheels.glob("torch-*.whl"))
    gpu = [name for name in requirements_of(torch) if name.startswith(("nvidia-", "cuda-", "triton"))]
    if gpu:
        shutil.rmtree(wheels)
        sys.exit(f"{torch.name} needs {gpu[0]} and more for CUDA\n  fix: add TORCH_INDEX={CPU_INDEX}")


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel requires on Linux without extras, as written in its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))
    return [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]


def write_requirements(out: Path, wheels: Path) -> None:
    """One line per wheel with the digest pip has to find."""
    lines = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}")
    (out / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def copy_documents(out: Path) -> None:
    """README, license, documentation and examples, as in the repository."""
    for name in DOCUMENTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, out / name)


def write_installer(out: Path, platform: str, python: str, extra: str) -> None:
    """Fill in the installer's template."""
    text = (ROOT / "tools" / "install.sh").read_text(encoding="utf-8")
    next_step = "edgelora quickstart" if extra == "train" else "edgelora plugins list"
    values = {"@MACHINE@": PLATFORMS[platform], "@PYTHON@": python, "@NEXT@": next_step}
    for mark, value in values.items():
        text = text.replace(mark, value)
    (out / "install.sh").write_text(text, encoding="utf-8")
    (out / "install.sh").chmod(0o755)


if __name__ == "__main__":
    main()
