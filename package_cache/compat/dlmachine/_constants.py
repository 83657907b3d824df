"""The names that a request was described by, under the module's name in dlmachine."""

DL_ATTRS = {"query", "post", "json", "multipart", "headers"}
"""What makes the answer to a URL another one."""
DL_PARAMS_KEY = "dl_params"
"""The parameter of an item that has these."""
DL_DESC_KEY = "descriptor"
"""The attribute of an item that has the whole request."""
PARAMS = [
    *("ssl_verifypeer", "ssl_verifyhost", "cainfo", "url", "followlocation", "connecttimeout", "timeout"),
    *("tcp_keepalive", "tcp_keepidle", "ssl_enable_alpn", "http_version", "ignore_content_length"),
]
"""What a connection could be told."""
