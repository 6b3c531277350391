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
    3: "this GPU has no confidential mode, or it is off",
    4: "no permission: run as root",
    15: "a GPU fell off the bus",
    10: "the driver timed out",
}


def main(arguments: list[str]) -> int:
    """Do one thing and say how it went."""
    import pynvml  # noqa: PLC0415 - an extra, and only this process loads it

    try:
        pynvml.nvmlInit()
        try:
            answer = _ready(pynvml) if arguments[:1] == ["ready"] else _collect(pynvml, bytes.fromhex(arguments[1]))
        finally:
            pynvml.nvmlShutdown()
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


def _collect(nvml: ModuleType, nonce: bytes) -> dict[str, object]:
    """Collect report and chain of every device, one after the other."""
    state, devices = _state(nvml), []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        size, chain_size = int(report.attestationReportSize), int(chain.attestationCertChainSize)
        devices.append(
            {
                "report": bytes(report.attestationReport[:size]).hex(),
                "chain": bytes(chain.attestationCertChain[:chain_size]).hex(),
                "cc_state": state,
            }
        )
    return {"devices": devices}


def _ready(nvml: ModuleType) -> dict[str, object]:
    nvml.nvmlSystemSetConfComputeGpusReadyState(1)
    return {"ready": int(nvml.nvmlSystemGetConfComputeGpusReadyState())}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
