"""nginx and HAProxy from the system's packages, with the configurations that docs/deploy ships."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.servers import free_port, missing

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
START_TIMEOUT_S = 10.0

NGINX_MAIN = """
daemon off; pid {directory}/nginx.pid; error_log stderr warn; worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    include {directory}/planwire.conf;
}}
"""


def _render(name: str, changes: Mapping[str, str]) -> str:
    """Return a shipped configuration with `changes` made; each must find what it replaces."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


def _nginx(
    directory: Path, port: int, gateway: int, made: Certificates, idle_s: float, prefix: str, more: Mapping[str, str]
) -> list[str]:
    changes = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "server 127.0.0.1:8000 ": f"server 127.0.0.1:{gateway} ",
        "/etc/ssl/planwire/fullchain.pem": str(made.certificate),
        "/etc/ssl/planwire/privkey.pem": str(made.key),
        "proxy_read_timeout 60s;": f"proxy_read_timeout {idle_s * 1000:.0f}ms;",
        "proxy_send_timeout 60s;": f"proxy_send_timeout {idle_s * 1000:.0f}ms;",
    }
    if prefix:
        changes["    location / {\n"] = f"    location {prefix}/ {{\n"
        changes["    location /metrics {\n"] = f"    location {prefix}/metrics {{\n"
        changes["proxy_pass http://planwire;"] = "proxy_pass http://planwire$planwire_path;"
        mapped = f'map $request_uri $planwire_path {{ "~^{prefix}(/.*)$" $1; }}\n\n'
        changes["map $http_upgrade"] = f"{mapped}map $http_upgrade"
    (directory / "planwire.conf").write_text(_render("nginx.conf", {**changes, **more}))
    (directory / "nginx.conf").write_text(NGINX_MAIN.format(directory=directory))
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


def _haproxy(
    directory: Path, port: int, gateway: int, made: Certificates, idle_s: float, prefix: str, more: Mapping[str, str]
) -> list[str]:
    idle = f"{idle_s * 1000:.0f}ms"
    changes = {
        "bind :443 ssl": f"bind 127.0.0.1:{port} ssl",
        "127.0.0.1:8000": f"127.0.0.1:{gateway}",
        "/etc/ssl/planwire/planwire.pem": str(made.both),
        "maxconn 200000": "maxconn 200",
        "timeout client 60s": f"timeout client {idle}",
        "timeout server 60s": f"timeout server {idle}",
        "timeout tunnel 60s": f"timeout tunnel {idle}",
    }
    if prefix:
        changes["-m beg /metrics }\n"] = f"-m beg {prefix}/metrics }}\n"
        changes["    default_backend gateways\n"] = f"    use_backend gateways if {{ path_beg {prefix}/ }}\n"
        rewritten = f"    http-request replace-path {prefix}(/.*) \\1\n"
        changes["    balance leastconn\n"] = f"    balance leastconn\n{rewritten}"
    (directory / "haproxy.cfg").write_text(_render("haproxy.cfg", {**changes, **more}))
    return ["haproxy", "-db", "-q", "-f", str(directory / "haproxy.cfg")]


NO_FORWARDING_HEADERS = {
    "nginx": {
        "        proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;\n": "",
        "        proxy_set_header X-Forwarded-Proto $scheme;\n": "",
    },
    "haproxy": {"    option forwardfor\n": "", "    http-request set-header X-Forwarded-Proto https\n": ""},
}
"""Changes that keep a proxy from saying that it passes requests on."""

COMMANDS = {"nginx": _nginx, "haproxy": _haproxy}


@contextlib.asynccontextmanager
async def run_proxy(
    name: str,
    gateway: int,
    made: Certificates,
    idle_s: float = 60,
    *,
    prefix: str = "",
    changes: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """Run a proxy with TLS before the gateway on port `gateway`; gives its port. `idle_s` replaces its 60 s timeouts.

    `prefix`: serve it below this path, as the comments in the shipped files say. `changes`: further ones to the shipped
    file, from what is replaced to what stands there then.

    Without the program the test is skipped, under CI it fails.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which(name, path=path)
    if program is None:
        missing(f"{name} is not on PATH (Debian: apt-get install nginx-light haproxy)")
    directory = Path(tempfile.mkdtemp(prefix="pw-proxy-"))
    os.chmod(directory, 0o755)  # nginx's workers run as another user, and keep large bodies in it
    port = free_port()
    command = COMMANDS[name](directory, port, gateway, made, idle_s, prefix, changes or {})
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - started once, waited for below
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _is_serving(port, made, prefix):
                assert process.poll() is None, (directory / "log").read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _is_serving(port: int, made: Certificates, prefix: str) -> bool:
    """Whether the proxy hands a request to the gateway: HAProxy does so only after its first checks."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=made.trust())
    except OSError:
        return False
    try:
        request = f"GET {prefix}/readyz HTTP/1.1\r\nHost: planwire.test\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        return b" 200" in await reader.readline()
    except OSError:
        return False
    finally:
        writer.transport.abort()
