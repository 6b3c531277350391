# SPDX-License-Identifier: Apache-2.0
"""The NVML child: ``python -m enclave.gpu_child collect NONCE | ready``. One JSON document on standard output."""

from __future__ import annotations

import json
import sys
from ctypes import byref
from types import ModuleType
from typing import Final

_HINTS: Final = {
    12: "libnvidia-ml is not there: is the NVIDIA driver installed?",
    9: "the NVIDIA driver is not loaded",
    13: "this driver is too old for confidential computing",
    3: "this GPU has no confidential mode, or it is off: the host turns it on (Hopper or later) and resets the GPU",
    4: "no permission: run as root",
    15: "a GPU fell off the bus",
    10: "the driver timed out",
    999: "the GPU is in a bad state: the host must reset it, then start the guest again; see the driver log",
}
_TDX: Final = 2  # NVML_CC_SYSTEM_CPU_CAPS_INTEL_TDX
_CAPABLE: Final = 1  # NVML_CC_SYSTEM_GPUS_CC_CAPABLE
_PRODUCTION: Final = 2  # NVML_CC_SYSTEM_ENVIRONMENT_PROD


class NotConfidential(Exception):
    """The GPUs are not in the mode that evidence is asked of. The message says what to do."""


def main(arguments: list[str]) -> int:
    """Do one thing and say how it went."""
    import pynvml  # noqa: PLC0415 - an extra, and only this process loads it

    answer: dict[str, object]
    try:
        pynvml.nvmlInit()
        try:
            answer = _ready(pynvml) if arguments[:1] == ["ready"] else _collect(pynvml, bytes.fromhex(arguments[1]))
        finally:
            pynvml.nvmlShutdown()
    except NotConfidential as e:
        answer = {"error": str(e)}
    except pynvml.NVMLError as e:
        code = int(getattr(e, "value", 0))
        answer = {"error": f"NVML error {code}: {_HINTS.get(code, 'see the driver log')}"}
    print(json.dumps(answer))
    return 0


def _state(nvml: ModuleType) -> dict[str, int]:
    """Read the confidential-computing state of the system."""
    state = nvml.nvmlSystemGetConfComputeState()
    settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
    code = nvml.nvmlSystemGetConfComputeSettings(byref(settings))
    if code:
        raise nvml.NVMLError(code)
    return {
        "cc_feature": int(state.ccFeature),
        "dev_tools": int(state.devToolsMode),
        "environment": int(state.environment),
        "multi_gpu_mode": int(settings.multiGpuMode),
        "ready": int(nvml.nvmlSystemGetConfComputeGpusReadyState()),
    }


def _require_confidential(nvml: ModuleType, state: dict[str, int]) -> None:
    """Ask for no evidence of GPUs whose mode no client accepts. Raises NotConfidential."""
    caps = nvml.nvmlSystemGetConfComputeCapabilities()
    if int(caps.gpusCaps) != _CAPABLE:
        raise NotConfidential("this GPU cannot do confidential computing: it takes Hopper or later")
    if not state["cc_feature"]:
        raise NotConfidential("confidential computing is off: the host sets the GPU's CC mode to on and resets it")
    if int(caps.cpuCaps) != _TDX:
        raise NotConfidential("the driver sees no TDX guest: start this virtual machine as a TDX guest")
    if state["dev_tools"]:
        raise NotConfidential(
            "developer tools are on, so the host can look in: the host sets CC mode to on without them"
        )
    if state["environment"] != _PRODUCTION:
        raise NotConfidential("the GPU is not a production one: only a production environment is attested")


def _collect(nvml: ModuleType, nonce: bytes) -> dict[str, object]:
    """Collect report and chain of every device, one after the other."""
    state, devices = _state(nvml), []
    _require_confidential(nvml, state)
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        devices.append(
            {
                "report": _sized(report.attestationReport, report.attestationReportSize).hex(),
                "chain": _sized(chain.attestationCertChain, chain.attestationCertChainSize).hex(),
                "cc_state": state,
            }
        )
    return {"devices": devices}


def _sized(buffer: object, size: int) -> bytes:
    """Give the first `size` bytes of a buffer that the driver filled. Raises NotConfidential for an impossible size."""
    data: bytes = bytes(buffer)  # type: ignore[call-overload]  # an array of ctypes
    if not 0 < int(size) <= len(data):
        raise NotConfidential(f"the driver says {size} bytes of a buffer of {len(data)}: update the driver")
    return data[: int(size)]


def _ready(nvml: ModuleType) -> dict[str, object]:
    nvml.nvmlSystemSetConfComputeGpusReadyState(1)
    return {"ready": int(nvml.nvmlSystemGetConfComputeGpusReadyState())}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
