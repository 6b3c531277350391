# SPDX-License-Identifier: Apache-2.0
"""The provider's commands: each module holds one click command or group named `command`."""
