# SPDX-License-Identifier: Apache-2.0
"""A software machine that really signs, under a CA of its own whose every name says SIMULATED - NOT CONFIDENTIAL."""
