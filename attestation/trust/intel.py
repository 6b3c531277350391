# SPDX-License-Identifier: Apache-2.0
"""Intel's SGX root CA, by the SHA-256 of its certificate: valid to 2049-12-31, serial 22650cd6...27 06ac.

Published as Intel_SGX_Provisioning_Certification_RootCA.cer by Intel's Provisioning Certification Service.
"""

from __future__ import annotations

from typing import Final

from ..tdx.anchor import INTEL_NAMES, TdxTrustAnchor

INTEL_ANCHOR: Final = TdxTrustAnchor(
    root_sha256=bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"), names=INTEL_NAMES
)
