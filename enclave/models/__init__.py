# SPDX-License-Identifier: Apache-2.0
"""Model files: where they come from, what their header says, and which digests name them."""
