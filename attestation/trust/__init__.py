# SPDX-License-Identifier: Apache-2.0
"""The roots that are compiled in. A verdict is confidential only under these."""
