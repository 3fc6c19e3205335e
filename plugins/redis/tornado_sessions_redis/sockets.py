"""The driver's connections, which here notice that the server has closed them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import (
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class _Noticing(_Base):
    """A connection that says whether the server has closed it.

    The driver itself finds that out by a request that fails. The older of its
    versions have no public name for it.
    """

    _reader: asyncio.StreamReader | None

    def is_stale(self) -> bool:
        return self._reader is not None and self._reader.at_eof()


class _Reopening(_Noticing):
    """A connection that is opened again before a command is sent if it is stale."""

    _is_opening = False

    async def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        self._is_opening = True
        try:
            await super().connect_check_health(*arguments, **options)
        finally:
            self._is_opening = False

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        if not self._is_opening and self.is_stale():
            await self.disconnect(nowait=True)
        await super().send_packed_command(*arguments, **options)


class TCPSocket(_Noticing, Connection):
    pass


class TLSSocket(_Noticing, SSLConnection):
    pass


class UnixSocket(_Noticing, UnixDomainSocketConnection):
    pass


class SentinelSocket(_Noticing, SentinelManagedConnection):
    pass


class SentinelTLSSocket(_Noticing, SentinelManagedSSLConnection):
    pass


class ClusterSocket(_Reopening, Connection):
    pass


class ClusterTLSSocket(_Reopening, SSLConnection):
    pass
