# SPDX-License-Identifier: Apache-2.0
"""Who runs inside, and what do they do?"""
