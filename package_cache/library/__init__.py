"""The Python library: a versioned cache of files, downloads into it, and archives as files and lines."""

import logging

# Who uses a library says whether its log is to be seen, and where.
logging.getLogger(__name__.partition(".")[0]).addHandler(logging.NullHandler())
