# SPDX-License-Identifier: Apache-2.0
"""TON seen from outside: lite servers carry bytes, our own proof checks decide what is so (docs/ton.md)."""
