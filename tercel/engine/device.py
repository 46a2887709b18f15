"""Where the network runs and in which precision; every automatic choice is a finding."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from tercel.config import Train
from tercel.core.finding import Finding, Severity, TercelError


@dataclass(frozen=True)
class Runtime:
    """Device, autocast and memory layout of a run."""

    device: torch.device
    bf16: bool
    findings: tuple[Finding, ...]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX); emulation is slower than fp32."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:  # not Linux: ask torch about the one other case it knows
        return bool(getattr(torch.backends, "mps", None) is None and platform.machine() in {"arm64", "aarch64"})
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16"))


def choose(config: Train) -> Runtime:
    """The runtime for a configuration.

    Raises:
        TercelError: CUDA was asked for and is not there.
    """
    findings = []
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        findings.append(_info("device", f"device auto: {name}"))
    if name == "cuda" and not torch.cuda.is_available():
        raise TercelError("train.device=cuda, but torch finds no CUDA device", "use --set train.device=cpu")
    if name == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        device = torch.device("cuda", local)
        able = torch.cuda.is_bf16_supported()
    else:
        device, able = torch.device("cpu"), cpu_has_bf16()
        if config.threads:
            torch.set_num_threads(config.threads)
    bf16 = able if config.precision == "auto" else config.precision == "bf16"
    if config.precision == "auto":
        why = "in hardware" if able else "not in hardware"
        findings.append(_info("precision", f"precision auto: {'bf16' if bf16 else 'fp32'} (bf16 {why})"))
    elif bf16 and not able:
        message = "bf16 was asked for and this device only emulates it: expect it to be slower than fp32"
        findings.append(Finding("runtime.precision", Severity.WARNING, message))
    return Runtime(device, bf16, tuple(findings))


def _info(check: str, message: str) -> Finding:
    return Finding(f"runtime.{check}", Severity.INFO, message)


def machine() -> dict[str, Any]:
    """What the run ran on, for run.json."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), model)
    except OSError:  # not Linux: platform's word has to do
        pass
    out: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.get_device_name()
    return out
