# SPDX-License-Identifier: Apache-2.0
"""The sealed exchange, sans I/O: bytes in, authenticated payloads out, the same law for both ends."""
