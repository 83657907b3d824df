"""The Python library: a versioned cache of files, downloads into it, and archives as files and lines."""

import logging

# The program that uses a library configures whether its log is shown, and where.
logging.getLogger(__name__.partition(".")[0]).addHandler(logging.NullHandler())
