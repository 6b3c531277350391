# SPDX-License-Identifier: Apache-2.0
"""What is claimed by an enclave, and is it true? Pure: no I/O, no clock, no randomness of its own."""
