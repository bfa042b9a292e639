"""The store over TLS: who the server is, is checked, on every kind of connection; also of a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import uvloop

from sync.store.command_pipeline import run_commands
from sync.store.models import Change, StoreError
from sync.store.redis.connect import StoreUrlError, connect
from sync.store.redis.slots import SLOTS
from sync.store.store import Store
from tests.support.certificates import Certificates, make_certificates
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.sentinel import SERVICE, Sentinel, start
from tests.support.servers import Server, free_port, start_redis
from tests.support.wait import until

PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def start_tls(certificates: Certificates, *args: str) -> Iterator[tuple[Server, int]]:
    """A server that takes TLS on a second port, which is given, and asks clients for certificates."""
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificates.certificate)]
    options += ["--tls-key-file", str(certificates.key), "--tls-ca-cert-file", str(certificates.authority)]
    with start_redis(tcp=True, args=[*options, "--requirepass", PASSWORD, *args]) as server:
        yield server, port


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Iterator[str]:
    """host:port and options of a server with TLS, after the scheme."""
    with start_tls(certificates) as (_, port):
        yield f"://:{PASSWORD}@127.0.0.1:{port}"


@pytest.fixture(scope="module")
def tls_cluster(certificates: Certificates) -> Iterator[str]:
    """The same of a Cluster of one."""
    with start_tls(
        certificates, "--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_port())
    ) as (server, port):
        with redis.Redis(port=server.port, password=PASSWORD) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        yield f"://:{PASSWORD}@127.0.0.1:{port}"


@pytest.fixture(scope="module")
def tls_sentinel(certificates: Certificates, tls: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of a Sentinel that watches the one server; it speaks TLS only, as the server does to it."""
    folder, port = tmp_path_factory.mktemp("sentinel"), tls.rpartition(":")[2]
    own = free_port()
    (folder / "conf").write_text(
        f"tls-port {own}\ntls-replication yes\n"
        f"tls-cert-file {certificates.certificate}\ntls-key-file {certificates.key}\n"
        f"tls-ca-cert-file {certificates.authority}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {port} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
    )
    with contextlib.ExitStack() as stack:
        start(stack, folder, kind=Sentinel)
        yield f"://:{PASSWORD}@127.0.0.1:{own}/{SERVICE}"


FIXTURES = {"rediss": "tls", "rediss+sentinel": "tls_sentinel", "rediss+cluster": "tls_cluster"}


@pytest.fixture(params=FIXTURES)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each, without options."""
    return str(request.param) + str(request.getfixturevalue(FIXTURES[request.param]))


@contextlib.asynccontextmanager
async def store_of(url: str) -> AsyncIterator[Store]:
    store = connect(url).store
    yield store
    await store.aclose()


def options(certificates: Certificates, authority: Path) -> str:
    return f"ssl_ca_certs={authority}&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"


async def test_a_tab_hears_of_a_commit_over_tls(url: str, certificates: Certificates) -> None:
    trusted = f"{url}?{options(certificates, certificates.authority)}"
    environ = environment(trusted, SWEEP_S="600")
    async with (
        run_gateway(environ) as running,
        open_client(running, "tenant:acme") as client,
        store_of(trusted) as store,
    ):
        await client.until("snapshot")
        done = await store.commit(Change("tenant:acme", b'{"url":"%b"}' % url.partition("?")[0].encode()))
        assert (await client.until("snapshot"))["version"] == done.version


async def test_a_server_that_nobody_vouches_for_is_refused(
    url: str, certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path)
    for query in (options(certificates, other.authority), "ssl_cert_reqs=required"):
        async with store_of(f"{url}?{query}") as store:
            with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
                await store.ping()


async def test_the_feed_refuses_it_too(
    url: str, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_certificates(tmp_path)
    environ = environment(f"{url}?{options(certificates, other.authority)}", PROBE_S="0.3")
    async with run_gateway(environ, until_fresh=False) as running:
        with pytest.raises(AssertionError):
            await until(lambda: running.node.subscriber.connected, timeout_s=0.5)
        assert not running.node.hub.fresh


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_a_certificate_that_cannot_be_read_is_named_at_once(scheme: str) -> None:
    path = "/SERVICE" if "sentinel" in scheme else ""
    with pytest.raises(StoreUrlError, match="No such file"):
        connect(f"{scheme}://h:1{path}?ssl_ca_certs=/nowhere.pem")


def test_a_command_that_is_cancelled_leaves_no_connection_behind(certificates: Certificates, tls: str) -> None:
    """A TLS connection that is closed politely waits for the server's answer, which a busy server does not give."""

    async def cancel_one() -> None:
        async with store_of(f"rediss{tls}?{options(certificates, certificates.authority)}") as store:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await run_commands(store, ("BLPOP", "nobody:pushes", 0))

    with warnings.catch_warnings(record=True) as caught, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        warnings.simplefilter("always")
        runner.run(cancel_one())
    gc.collect()
    assert [str(warning.message) for warning in caught] == []
