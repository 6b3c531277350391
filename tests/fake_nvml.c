/* SPDX-License-Identifier: Apache-2.0
 * A driver that is played: the calls of libnvidia-ml that the collector makes, on one GPU.
 * FAKE_NVML says how it misbehaves; FAKE_NVML_REPORT and FAKE_NVML_CHAIN name the files that it gives. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct report { unsigned present, size, cec_size; uint8_t nonce[32], report[0x2000], cec[0x1000]; };
struct chain { unsigned size, attestation_size; uint8_t chain[0x1000], attestation[0x1400]; };

static int plays(const char *what) {
    const char *given = getenv("FAKE_NVML");
    return given && !strcmp(given, what);
}

static unsigned fill(uint8_t *buffer, size_t room, const char *variable) {
    FILE *file = fopen(getenv(variable) ? getenv(variable) : "", "rb");
    if (!file) return 0;
    size_t size = fread(buffer, 1, room, file);
    fclose(file);
    return (unsigned)size;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return plays("no-driver") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetConfComputeCapabilities(unsigned *caps) {
    caps[0] = plays("no-tdx") ? 0 : 2;
    caps[1] = !plays("not-capable");
    return 0;
}
int nvmlSystemGetConfComputeState(unsigned *state) {
    if (plays("old-gpu")) return 3;
    state[0] = plays("simulation") ? 1 : 2;
    state[1] = !plays("cc-off");
    state[2] = plays("developer");
    return 0;
}
int nvmlSystemGetConfComputeSettings(unsigned *settings) {
    if (settings[0] != 0x1000014) return 25;
    settings[4] = plays("protected-pcie");
    return 0;
}
int nvmlSystemGetConfComputeGpusReadyState(unsigned *ready) { *ready = 0; return 0; }
int nvmlSystemSetConfComputeGpusReadyState(unsigned ready) { (void)ready; return plays("not-root") ? 4 : 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(uintptr_t)(index + 1); return 0; }
int nvmlDeviceGetConfComputeGpuCertificate(void *device, struct chain *out) {
    (void)device;
    out->attestation_size = fill(out->attestation, sizeof out->attestation, "FAKE_NVML_CHAIN");
    if (plays("chain-size")) out->attestation_size = 0x1401;
    return 0;
}
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, struct report *out) {
    (void)device;
    if (plays("999")) return 999;
    if (plays("lost")) return 15;
    if (plays("hang")) for (;;) pause();
    if (plays("late")) sleep(5);
    if (plays("crash")) abort();
    out->size = fill(out->report, sizeof out->report, "FAKE_NVML_REPORT");
    if (plays("report-size")) out->size = 0x2001;
    if (plays("no-report")) out->size = 0;
    return 0;
}
