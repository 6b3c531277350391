# SPDX-License-Identifier: Apache-2.0
"""Intel TDX: quotes, endorsements, TCB evaluation, event logs and expected measurements."""
