# SPDX-License-Identifier: Apache-2.0
"""What a host needs before it can launch an enclave: one check a question, each with how to mend it."""
