# SPDX-License-Identifier: Apache-2.0
"""The boot agent: the second program of an image. It checks what the launcher brought, and starts the enclave."""
