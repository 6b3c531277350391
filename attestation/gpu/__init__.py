# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs in confidential mode: reports, device chains, reference measurements, revocation."""
