"""The stores that are servers, and all stores by their names."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from benchmarks.scale.stores import Memory, SQLite, Store


class Redis(Store):
    options = "prefix={place}:"

    def _client(self) -> Any:  # noqa: ANN401
        import redis.asyncio

        return redis.asyncio.Redis.from_url(self.server)

    async def size(self) -> int:
        async with self._client() as client:
            return int((await client.info("memory"))["used_memory"])

    async def clear(self) -> None:
        async with self._client() as client:
            cursor = None
            while cursor != 0:
                cursor, keys = await client.scan(
                    cursor or 0, match=f"{self.place}:*", count=5000
                )
                if keys:
                    await client.unlink(*keys)


class Memcached(Store):
    options = "prefix={place}:"

    async def size(self) -> int:
        # By default it would drop sessions beyond 64 megabytes.
        await self._ask("cache_memlimit 4096", "OK")
        lines = (await self._ask("stats", "END")).splitlines()
        figures = dict(line.split(" ", 2)[1:] for line in lines[:-1])
        if int(figures["evictions"]):
            raise SystemExit("memcached has dropped sessions: it needs more memory.")
        return int(figures["bytes"])

    async def clear(self) -> None:
        await self._ask("flush_all", "OK")

    async def _ask(self, command: str, end: str) -> str:
        address = urlsplit(self.server)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{command}\r\n".encode())
        reply = await reader.readuntil(f"{end}\r\n".encode())
        writer.close()
        await writer.wait_closed()
        return reply.decode()


class MongoDB(Store):
    options = "collection={place}"

    async def size(self) -> int:
        import pymongo

        async with pymongo.AsyncMongoClient[dict[str, Any]](self.server) as client:
            # The sizes are those of the last checkpoint.
            await client.admin.command("fsync")
            database = client.get_default_database("sessions")
            sizes = await database.command("collStats", self.place)
        return int(sizes["storageSize"] + sizes["totalIndexSize"])

    async def clear(self) -> None:
        import pymongo

        async with pymongo.AsyncMongoClient[dict[str, Any]](self.server) as client:
            await client.get_default_database("sessions").drop_collection(self.place)


class PostgreSQL(Store):
    options = "table={place}"

    async def size(self) -> int:
        sql = f"SELECT pg_total_relation_size(to_regclass('{self.place}'))"
        # There is no table before the first session.
        return int(await self._ask(sql) or 0)

    async def clear(self) -> None:
        await self._ask(f"DROP TABLE IF EXISTS {self.place}")

    async def _ask(self, sql: str) -> Any:  # noqa: ANN401
        import asyncpg

        connection = await asyncpg.connect(self.server)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()


class MySQL(Store):
    options = "table={place}"

    async def size(self) -> int:
        # The sizes are those of the last analysis.
        await self._ask(f"ANALYZE TABLE {self.place}")
        found = await self._ask(
            "SELECT data_length + index_length FROM information_schema.tables"
            f" WHERE table_schema = DATABASE() AND table_name = '{self.place}'"
        )
        return int(found[0][0]) if found else 0

    async def clear(self) -> None:
        await self._ask(f"DROP TABLE IF EXISTS {self.place}")

    async def _ask(self, sql: str) -> Any:  # noqa: ANN401
        import asyncmy

        address = urlsplit(self.server)
        connect: Any = asyncmy.connect
        async with (
            connect(
                host=address.hostname,
                port=address.port,
                user=address.username,
                password=address.password,
                database=address.path[1:],
            ) as connection,
            connection.cursor() as cursor,
        ):
            await cursor.execute(sql)
            return await cursor.fetchall()


STORES: dict[str, type[Store]] = {
    "memcached": Memcached,
    "memory": Memory,
    "mongodb": MongoDB,
    "mysql": MySQL,
    "postgresql": PostgreSQL,
    "redis": Redis,
    "sqlite": SQLite,
}
