"""Older packages by their names and in their call shapes: `cachedir`, `dlmachine`, `ust_download_cache`.

Who imports one of these from here instead has moved over; what could not be kept raises, and says what is there for it.
"""
