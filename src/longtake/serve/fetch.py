"""Fetch a file from an http(s) address without becoming a way into the network behind the server.

A host is resolved here, every address it has is checked, and the connection goes to a checked
address, so that no second look-up can say something else. Each redirect is a new request and passes
through the same gate.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpcore

from longtake.errors import OptionError
from longtake.serve.faults import Refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_BLOCK_SECONDS = 30.0


def networks(names: Iterable[str]) -> tuple[Network, ...]:
    """Networks by name, such as 10.0.0.0/8. Raises OptionError."""
    try:
        return tuple(ipaddress.ip_network(name) for name in names)
    except ValueError as error:
        raise OptionError(f"{error}; write a network as 10.1.0.0/16 or fd00::/8") from error


def faces(address: Address) -> tuple[Address, ...]:
    """An address and the IPv4 addresses that packets to it may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner: list[Address] = [address]
    inner += [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
    inner += address.teredo or ()
    return tuple(inner)


def is_public(address: Address) -> bool:
    """Whether an address, in every reading of it, is one of the open internet.

    What embeds an IPv4 address below ::/8 (mapped, compatible, NAT64) is reserved, so never public.
    """
    return all(map(_is_global, faces(address)))


def _is_global(one: Address) -> bool:
    special = one.is_multicast or one.is_reserved or one.is_unspecified or one.is_loopback
    if isinstance(one, ipaddress.IPv6Address):
        special = special or one.is_site_local
    return one.is_global and not special


def may_connect(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether to connect to an address: it is public, or an allowed network holds it."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    plain = mapped or address
    return any(plain in network for network in allowed) or is_public(address)


async def resolved(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """All addresses of a host, once each has been checked. Raises Refusal."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refusal(400, "media_unreachable", "the host of the address is unknown") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for name in addresses:
        if not may_connect(ipaddress.ip_address(name.split("%")[0]), allowed):
            raise Refusal(
                400,
                "media_forbidden",
                "the address leads into a private network; this server fetches public ones only",
            )
    if not addresses:
        raise Refusal(400, "media_unreachable", "the host of the address is unknown")
    return addresses


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers."""
        failed: Exception = httpcore.ConnectError("no address")
        for address in await resolved(host, port, self._allowed):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no address leads to one."""
        raise httpcore.ConnectError("no sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await self._inner.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches files of bounded size in bounded time."""

    limit_bytes: int
    seconds: float
    allowed: tuple[Network, ...] = ()
    """Networks that may be reached although they are not public."""

    async def into(self, url: str, write: Callable[[bytes], None]) -> str:
        """Hand all bytes of an address to `write`; returns the file's name. Raises Refusal."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._fetch(url, write)
        except TimeoutError as error:
            told = f"the file did not come within {self.seconds:.0f} s"
            raise Refusal(400, "media_slow", told) from error
        except (httpcore.TimeoutException, httpcore.NetworkError, ssl.SSLError) as error:
            raise Refusal(400, "media_unreachable", "the address does not answer") from error
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise Refusal(400, "media_unreachable", "the address answers wrongly") from error

    async def _fetch(self, url: str, write: Callable[[bytes], None]) -> str:
        backend = CheckedBackend(self.allowed)
        async with httpcore.AsyncConnectionPool(network_backend=backend, http2=False) as pool:
            for _ in range(REDIRECTS + 1):
                async with self._get(pool, checked_url(url)) as response:
                    moved = header(response, b"location")
                    if response.status not in _MOVED or moved is None:
                        await self._copy(response, write)
                        return urlsplit(url).path.rpartition("/")[2] or "video"
                    url = joined(url, moved)
        raise Refusal(
            400, "media_unreachable", f"the address redirects more than {REDIRECTS} times"
        )

    @asynccontextmanager
    async def _get(
        self, pool: httpcore.AsyncConnectionPool, url: str
    ) -> AsyncIterator[httpcore.Response]:
        waits = dict.fromkeys(("connect", "read", "write", "pool"), _BLOCK_SECONDS)
        headers = [("User-Agent", "longtake"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
        async with pool.stream("GET", url, headers=headers, extensions={"timeout": waits}) as found:
            yield found

    async def _copy(self, response: httpcore.Response, write: Callable[[bytes], None]) -> None:
        if response.status != 200:
            told = f"the address answers with status {response.status}"
            raise Refusal(400, "media_unreachable", told)
        if (header(response, b"content-encoding") or "identity") != "identity":
            raise Refusal(
                400, "media_unreachable", "the address sends packed bytes, plain were asked"
            )
        said = header(response, b"content-length") or "0"
        count = int(said) if said.isdecimal() else 0
        self._within(count)
        count = 0
        async for block in response.aiter_stream():
            count += len(block)
            self._within(count)
            write(block)
        if said.isdecimal() and count < int(said):
            raise Refusal(400, "media_unreachable", "the file breaks off while it is fetched")

    def _within(self, count: int) -> None:
        if count > self.limit_bytes:
            told = f"the file has more than {self.limit_bytes} bytes; send a smaller one"
            raise Refusal(413, "media_too_large", told)


def joined(url: str, moved: str) -> str:
    """Where a redirect leads. Raises Refusal."""
    try:
        return urljoin(url, moved)
    except ValueError as error:
        raise Refusal(400, "media_unreachable", "the address redirects to none") from error


def checked_url(url: str) -> str:
    """An address that may be asked for at all. Raises Refusal."""
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine, parts = False, urlsplit("")
    if parts.scheme.lower() not in ("http", "https") or not fine:
        raise Refusal(
            400, "media_forbidden", "only http and https addresses with a host are fetched"
        )
    if parts.username is not None or parts.password is not None:
        told = "leave the user name and password out of the address"
        raise Refusal(400, "media_forbidden", told)
    if not url.isascii() or any(letter <= " " for letter in url):
        raise Refusal(400, "media_forbidden", "write the address in ASCII, escaped where needed")
    return parts._replace(fragment="").geturl()


def header(response: httpcore.Response, name: bytes) -> str | None:
    """A response header, or None."""
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("latin-1")
    return None
