"""How each other cache is set up, as its users would for this work. Everybody logs each request, in batches where it can.

nginx: two workers, the open-file cache, logs through a buffer. Squid: one process, as it comes. Varnish: in memory, logs to
shared memory. None of them may touch anything outside of the folder it is given.
"""

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from processes import Unusable, search_path

_NGINX = """\
daemon off;
{user}
worker_processes 2;
worker_rlimit_nofile 16384;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log {log};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=600s;
    open_file_cache_valid 600s;
    {http}
    server {{
        listen 127.0.0.1:{port}{tls} reuseport backlog=4096;
        {certificate}
        location / {{
            {server}
        }}
        {locations}
    }}
}}
"""

_CACHE_HTTP = """\
proxy_cache_path {folder}/cache levels=1:2 keys_zone=files:64m max_size=100g inactive=1d use_temp_path=off;
    upstream origin {{ server {source}; keepalive 64; }}"""

_CACHE_SERVER = """\
proxy_pass {scheme}://origin;
            {trust}
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache files;
            proxy_cache_valid 200 1d;
            proxy_cache_revalidate on;
            proxy_cache_lock on;"""

_TRUST = """\
proxy_ssl_verify on;
            proxy_ssl_name {host};
            proxy_ssl_trusted_certificate {certificate};"""

# Indexes that are to be asked for each time: `@1` is a time that has passed, so nginx stores them and revalidates them
# with each request, which it would not with `Cache-Control: no-cache`. What they cost is told by the log, which has the
# answers that are no 304, and by the count of all requests.
_ORIGIN_HTTP = """\
map $status $whole {{ 304 0; default 1; }}
    log_format status $status;"""

_ORIGIN_LOCATIONS = """\
location = /-/requests {{ stub_status; }}
        location /index/ {{
            root {files};
            add_header X-Accel-Expires @1;
            access_log {folder}/whole.log status if=$whole;
        }}
        location /changing/ {{
            root {files};
            add_header X-Accel-Expires @1;
            open_file_cache off;
        }}"""

_SQUID = """\
http_port 127.0.0.1:{port} accel defaultsite={source} no-vhost
cache_peer {host} parent {source_port} 0 no-query no-digest originserver
http_access allow all
never_direct allow all
collapsed_forwarding on
refresh_pattern /(index|changing)/ 0 0% 0
refresh_pattern . 1440 100% 10080
cache_dir aufs {folder}/cache 100000 16 32
cache_mem 256 MB
maximum_object_size 4 GB
access_log stdio:{folder}/access.log combined
buffered_logs on
cache_log {folder}/cache.log
cache_store_log none
pid_filename {folder}/pid
coredump_dir {folder}
visible_hostname 127.0.0.1
max_filedescriptors 16384
pinger_enable off
netdb_filename none
shutdown_lifetime 0 seconds
{user}
"""

_VARNISH = """\
vcl 4.1;
backend default {{ .host = "{host}"; .port = "{source_port}"; }}
sub vcl_backend_response {{
    set beresp.ttl = 1d;
    if (bereq.url ~ "^/(index|changing)/") {{
        set beresp.ttl = 0.001s;  # with 0s it asks for the whole each time
        set beresp.grace = 0s;
        set beresp.keep = 1d;
    }}
}}
"""


@dataclass(frozen=True)
class Place:
    """Where a server is to run: its folder, its port, the address of its source, the files of that source, and the
    certificate of that source if it speaks https; its key lies beside it, with `.key` at its end."""

    folder: Path
    port: int
    source: tuple[str, int]
    files: Path
    certificate: Path | None = None

    @property
    def scheme(self) -> str:
        """http or https."""
        return "https" if self.certificate else "http"

    @property
    def url(self) -> str:
        """The source as a URL."""
        return f"{self.scheme}://{self.source[0]}:{self.source[1]}/"

    @property
    def trust(self) -> dict[str, str]:
        """What a program that uses OpenSSL needs in its environment to believe the source."""
        return {"SSL_CERT_FILE": str(self.certificate)} if self.certificate else {}


@dataclass(frozen=True)
class Launch:
    """A command, and what it needs in its environment."""

    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)


def program(name: str) -> str:
    """The path of an installed program."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise Unusable(f"{name} is not installed")
    return found


def nginx_static(place: Place) -> Launch:
    """nginx that serves the files of the source itself."""
    return _nginx(place, f"root {place.files};")


def nginx_origin(place: Place) -> Launch:
    """The source of the caches: the same without a log, with what the cases about indexes need."""
    locations = _ORIGIN_LOCATIONS.format(files=place.files, folder=place.folder)
    log, certificate = "off", ""
    if place.certificate:
        certificate = f"ssl_certificate {place.certificate}; ssl_certificate_key {place.certificate}.key;"
    return _nginx(place, f"root {place.files};", _ORIGIN_HTTP.format(), log, locations, certificate)


def nginx_cache(place: Place) -> Launch:
    """nginx with `proxy_cache`, `proxy_cache_lock` and `proxy_cache_revalidate`."""
    http = _CACHE_HTTP.format(folder=place.folder, source=f"{place.source[0]}:{place.source[1]}")
    trust = _TRUST.format(host=place.source[0], certificate=place.certificate) if place.certificate else ""
    return _nginx(place, _CACHE_SERVER.format(scheme=place.scheme, trust=trust), http)


def _nginx(place: Place, server: str, http: str = "", log: str = "", locations: str = "", certificate: str = "") -> Launch:
    user = "user root;" if os.geteuid() == 0 else ""
    folder = place.folder
    log = log or f"{folder}/access.log combined buffer=64k flush=1s"
    text = _NGINX.format(
        user=user,
        folder=folder,
        log=log,
        http=http,
        port=place.port,
        tls=" ssl" if certificate else "",
        certificate=certificate,
        server=server,
        locations=locations,
    )
    (folder / "nginx.conf").write_text(text)
    return Launch([program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])


def squid(place: Place) -> Launch:
    """Squid as an accelerator with a cache on disk. Makes the directories of that cache."""
    found, user = program("squid"), ""
    if os.geteuid() == 0:
        user = _give_away(place.folder, ("proxy", "squid", "nobody"), "cache_effective_user")
    host, port = place.source
    text = _SQUID.format(
        port=place.port, source=f"{host}:{port}", host=host, source_port=port, folder=place.folder, user=user
    )
    path = place.folder / "squid.conf"
    path.write_text(text)
    made = subprocess.run([found, "-N", "-z", "-f", str(path)], capture_output=True, text=True, check=False, timeout=60)
    if made.returncode:
        raise Unusable(f"squid -z failed: {made.stderr.strip()[-500:]}")
    return Launch([found, "-N", "-f", str(path)])


def _give_away(folder: Path, users: tuple[str, ...], option: str) -> str:
    """Give a folder to a user, for a server that refuses to be root; the line of its configuration that says so."""
    for name in users:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        return f"{option} {name}"
    raise Unusable(f"it refuses to run as root, and there is none of the users {', '.join(users)}")


def varnish(place: Place) -> Launch:
    """Varnish with 3 GiB of memory, without a jail, as the user who runs this."""
    found = program("varnishd")
    program("cc")  # varnishd translates its configuration with a C compiler
    path = place.folder / "default.vcl"
    path.write_text(_VARNISH.format(host=place.source[0], source_port=place.source[1]))
    options = ["-F", "-j", "none", "-n", str(place.folder / "work"), "-a", f"127.0.0.1:{place.port}", "-T", "none"]
    return Launch([found, *options, "-f", str(path), "-s", "malloc,3g"])


def download_first(place: Place) -> Launch:
    """The design of package-cache 0.2: see `downloadfirst.py`."""
    variables = {"DOWNLOAD_FIRST_SOURCE": place.url, "DOWNLOAD_FIRST_CACHE": str(place.folder / "cache")}
    here = ["--pythonpath", str(Path(__file__).parent), "--access-logfile", str(place.folder / "access.log")]
    return Launch([*gunicorn(place), *here, "downloadfirst:create_app()"], variables)


def gunicorn(place: Place) -> list[str]:
    """Gunicorn with threads, without an application."""
    options = ["--worker-class", "gthread", "--workers", "2", "--threads", "32", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{place.port}", *options]
