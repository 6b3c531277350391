# SPDX-License-Identifier: Apache-2.0
"""TON: proofs from a trusted block to a registry's state, believed only by our own check."""
