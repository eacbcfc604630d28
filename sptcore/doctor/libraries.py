"""From the versions installed and the facts of the probe to checks a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata

from sptcore.doctor import Check

Facts = Mapping[str, object]

REINSTALL = "pip install --force-reinstall torch torchvision, both from one and the same index"
HEADLESS = (
    "pip uninstall opencv-python && pip install opencv-python-headless; or install the system's libGL "
    "(Debian, Ubuntu: apt-get install libgl1 libglib2.0-0)"
)


@cache
def requirements() -> dict[str, str]:
    """Distribution -> lowest version, of everything spt needs without extras, from its own metadata."""
    try:
        lines = metadata.requires("spt") or []
    except metadata.PackageNotFoundError:
        return {}
    pattern = re.compile(r"^([A-Za-z0-9._-]+)\s*\(?>=([0-9.]+)\)?\s*$")
    return {match[1]: match[2] for line in lines if (match := pattern.match(line))}


def versions() -> dict[str, str | None]:
    """Installed version of spt, of each requirement and of triton; None where it is not installed."""
    return {name: installed(name) for name in ("spt", *requirements(), "triton")}


def installed(name: str) -> str | None:
    """The version of distribution `name`, found without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def judge_versions() -> list[Check]:
    """Every requirement against its lowest version."""
    checks = []
    if not requirements():
        checks.append(
            Check("spt", "note", "runs from a folder, it is not installed: versions cannot be checked", "pip install .")
        )
    wrong = []
    for name, lowest in requirements().items():
        have = installed(name) or (installed(f"{name}-headless") if name == "opencv-python" else None)
        if have is None or numbers(have) < numbers(lowest):
            wrong.append(
                Check(
                    name,
                    "fail",
                    f"{have or 'not installed'}, needs {lowest} or newer",
                    f"pip install '{name}>={lowest}'",
                )
            )
    if not wrong and requirements():
        checks.append(Check("requirements", "ok", f"{len(requirements())} packages, all new enough"))
    return checks + wrong


def numbers(version: str) -> tuple[int, ...]:
    """`2.14.1+cu130` as (2, 14, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def judge_libraries(facts: Mapping[str, Facts], *, gpu_test: bool = False) -> list[Check]:
    """Checks of the libraries the probe tried."""
    checks = [judge_torch(facts), judge_torchvision(facts), judge_cv2(facts), judge_h5py(facts)]
    checks += [judge_simple("pycocotools", facts), judge_device(facts), judge_counter(facts)]
    if gpu_test:
        checks.append(judge_gpu(facts))
    return [check for check in checks if check is not None]


def fault_of(name: str, facts: Mapping[str, Facts]) -> str | None:
    """Why library `name` does not work, or None."""
    found = facts.get(name)
    if found is None:
        return str(facts.get("ended", {}).get("error", "was not tried"))
    if "error" in found:
        return str(found["error"]).splitlines()[0]
    return None if found.get("works", True) else "a small computation came out wrong"


def judge_torch(facts: Mapping[str, Facts]) -> Check:
    fault = fault_of("torch", facts)
    if fault is None:
        return Check("torch", "ok", str(facts["torch"]["version"]))
    missing = "No module named" in fault
    cure = "pip install torch torchvision" if missing else REINSTALL
    return Check("torch", "fail", f"cannot be used: {fault}", cure)


def judge_torchvision(facts: Mapping[str, Facts]) -> Check:
    """torchvision, and why its compiled operators do not load when they do not."""
    torch_version, own = installed("torch") or "?", installed("torchvision") or "?"
    fault = fault_of("torchvision", facts)
    if fault is None:
        return Check("torchvision", "ok", f"{facts['torchvision']['version']}, its operators load")
    if fault_of("torch", facts):
        return Check("torchvision", "fail", "cannot be tried without torch")
    if "operator torchvision::" not in fault:
        return Check("torchvision", "fail", f"cannot be used: {fault}", REINSTALL)
    fitting = fitting_torchvision(torch_version)
    if fitting and numbers(own)[:2] != numbers(fitting):
        cure = f"pip install 'torchvision=={fitting}.*'"
        return Check("torchvision", "fail", f"{own} was built for another torch than {torch_version}: {fault}", cure)
    local = torch_version.partition("+")[2]
    build = "CPU build" if local == "cpu" else "build"
    why = f"torch {torch_version} is a {build} that this torchvision wheel ({own}) does not fit"
    return Check("torchvision", "fail", f"{why}: {fault}", REINSTALL)


def fitting_torchvision(torch_version: str) -> str | None:
    """The minor version of torchvision that belongs to a torch of the 2.x line: 2.k goes with 0.(k+15)."""
    parts = numbers(torch_version)
    return f"0.{parts[1] + 15}" if len(parts) > 1 and parts[0] == 2 else None


def judge_cv2(facts: Mapping[str, Facts]) -> Check:
    fault = fault_of("cv2", facts)
    if fault is None:
        return Check("opencv", "ok", str(facts["cv2"]["version"]))
    if re.search(r"lib(GL|gthread|glib|SM|Xext|Xrender|xcb)[^ ]*\.so", fault):
        return Check("opencv", "fail", f"needs a system library that is missing: {fault}", HEADLESS)
    return Check("opencv", "fail", f"cannot be used: {fault}", "pip install --force-reinstall opencv-python-headless")


def judge_h5py(facts: Mapping[str, Facts]) -> Check:
    fault = fault_of("h5py", facts)
    if fault is None:
        return Check("h5py", "ok", f"{facts['h5py']['version']} with HDF5 {facts['h5py']['hdf5']}")
    return Check("h5py", "fail", f"cannot be used: {fault}", "pip install --force-reinstall h5py numpy")


def judge_simple(name: str, facts: Mapping[str, Facts]) -> Check:
    fault = fault_of(name, facts)
    if fault is None:
        return Check(name, "ok", installed(name) or "works")
    return Check(name, "fail", f"cannot be used: {fault}", f"pip install --force-reinstall {name}")


def judge_device(facts: Mapping[str, Facts]) -> Check:
    """The device `--device auto` takes."""
    found = facts.get("torch", {})
    if fault_of("torch", facts):
        return Check("device", "fail", "none without torch")
    if found["cuda"]:
        return Check("device", "ok", f"cuda: {', '.join(map(str, found['devices']))}")  # type: ignore[call-overload]
    if found["cuda_build"] and _driver_is_there():
        cure = f"a driver for CUDA {found['cuda_build']}, or a torch built for the driver you have"
        return Check("device", "note", "a GPU driver is here but torch cannot use it; cpu", cure)
    return Check("device", "ok", f"cpu, {found['threads']} threads")


def _driver_is_there() -> bool:
    from pathlib import Path

    return Path("/proc/driver/nvidia/version").exists()


def judge_counter(facts: Mapping[str, Facts]) -> Check:
    """The counter behind `spt profile`."""
    fault = fault_of("counter", facts)
    if fault is not None:
        return Check("MAC counter", "fail", fault, "use the analytic figures of spt profile; they need no counter")
    found = facts["counter"]
    per_mac = float(str(found["flops_per_mac"]))
    if per_mac != 2:
        message = f"torch counts {per_mac:g} FLOPs a MAC, where spt halves its counts"
        return Check("MAC counter", "fail", message, "use a torch between 2.11 and the newest spt was tested with")
    if found["attention_counted"]:
        return Check("MAC counter", "ok", "torch counts 2 FLOPs a MAC, attention on the CPU included")
    return Check("MAC counter", "ok", "torch counts 2 FLOPs a MAC but 0 for attention on the CPU: spt adds the formula")


def judge_gpu(facts: Mapping[str, Facts]) -> Check:
    fault = fault_of("gpu", facts)
    if fault is not None:
        return Check("GPU test", "fail", fault, "run it where torch sees a GPU: nvidia-smi, CUDA_VISIBLE_DEVICES")
    return Check("GPU test", "ok", str(facts["gpu"]["message"]))
