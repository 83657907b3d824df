"""Older packages by their names and in their call shapes: `cachedir`, `dlmachine`, `ust_download_cache`.

Import one of these from here instead; what could not be kept raises an error that names its replacement.
"""
