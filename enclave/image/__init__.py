# SPDX-License-Identifier: Apache-2.0
"""Enclave images: built from pinned parts, the same bytes everywhere (docs/image.md)."""
