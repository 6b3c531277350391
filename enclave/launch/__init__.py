# SPDX-License-Identifier: Apache-2.0
"""From an image, a shape and documents to a running machine, and back to nothing."""
