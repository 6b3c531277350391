# SPDX-License-Identifier: Apache-2.0
"""What does a person outside do?"""
