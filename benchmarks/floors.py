"""The same work done by hand: the raw driver, JSON, and nothing of what we promise.

A handler takes the key of its record from a cookie of its own, so that nothing
but the store and the coding of the values is measured.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any, ClassVar
from urllib.parse import urlsplit

import tornado.web

from benchmarks.values import VALUES, change


class FloorHandler(tornado.web.RequestHandler):
    """What the floors of all stores have in common."""

    store: ClassVar[Any]

    @property
    def key(self) -> bytes:
        return (self.get_cookie("floor") or "").encode()

    def begin(self) -> bytes:
        key = secrets.token_hex(16)
        self.set_cookie("floor", key)
        return key.encode()


def memory(url: str) -> dict[str, type[FloorHandler]]:
    records: dict[bytes, bytes] = {}

    class Fill(FloorHandler):
        async def get(self) -> None:
            records[self.begin()] = json.dumps(VALUES).encode()

    class Read(FloorHandler):
        async def get(self) -> None:
            self.write(json.loads(records[self.key])["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            values = json.loads(records[key])
            change(values)
            records[key] = json.dumps(values).encode()
            self.write("hello")

    return _routes(Fill, Read, Write)


def cookie(url: str) -> dict[str, type[FloorHandler]]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(secrets.token_bytes(32))

    class Sealed(FloorHandler):
        def open(self) -> dict[str, Any]:
            sealed = base64.urlsafe_b64decode(self.key)
            values: dict[str, Any] = json.loads(
                cipher.decrypt(sealed[:12], sealed[12:], None)
            )
            return values

        def seal(self, values: dict[str, Any]) -> None:
            nonce = secrets.token_bytes(12)
            sealed = cipher.encrypt(nonce, json.dumps(values).encode(), None)
            self.set_cookie("floor", base64.urlsafe_b64encode(nonce + sealed).decode())

    class Fill(Sealed):
        async def get(self) -> None:
            self.seal(VALUES)

    class Read(Sealed):
        async def get(self) -> None:
            self.write(self.open()["key5"])

    class Write(Sealed):
        async def get(self) -> None:
            values = self.open()
            change(values)
            self.seal(values)
            self.write("hello")

    return _routes(Fill, Read, Write)


def sqlite(url: str) -> dict[str, type[FloorHandler]]:
    import aiosqlite

    opened: list[aiosqlite.Connection] = []

    async def execute(sql: str, *parameters: object) -> Any:  # noqa: ANN401
        if not opened:
            opened.append(aiosqlite.connect("floor.db", isolation_level=None))
            await opened[0]
            await opened[0].execute("PRAGMA journal_mode = WAL")
            await opened[0].execute("PRAGMA synchronous = NORMAL")
            await opened[0].execute("CREATE TABLE records (key PRIMARY KEY, data)")
        return await opened[0].execute_fetchall(sql, parameters)

    async def load(key: bytes) -> dict[str, Any]:
        ((data,),) = await execute("SELECT data FROM records WHERE key = ?", key)
        values: dict[str, Any] = json.loads(data)
        return values

    class Fill(FloorHandler):
        async def get(self) -> None:
            data = json.dumps(VALUES).encode()
            await execute("INSERT INTO records VALUES (?, ?)", self.begin(), data)

    class Read(FloorHandler):
        async def get(self) -> None:
            self.write((await load(self.key))["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            values = await load(key)
            change(values)
            data = json.dumps(values).encode()
            await execute("UPDATE records SET data = ? WHERE key = ?", data, key)
            self.write("hello")

    return _routes(Fill, Read, Write)


def memcached(url: str) -> dict[str, type[FloorHandler]]:
    import aiomcache

    address = urlsplit(url)
    client = aiomcache.Client(address.hostname or "", address.port or 0, pool_size=16)

    class Fill(FloorHandler):
        async def get(self) -> None:
            await client.set(self.begin(), json.dumps(VALUES).encode())

    class Read(FloorHandler):
        async def get(self) -> None:
            data, _ = await client.gets(self.key)
            self.write(json.loads(data or b"")["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            data, token = await client.gets(self.key)
            values = json.loads(data or b"")
            change(values)
            await client.cas(self.key, json.dumps(values).encode(), token or 0)
            self.write("hello")

    return _routes(Fill, Read, Write)


def mongodb(url: str) -> dict[str, type[FloorHandler]]:
    import motor.motor_asyncio
    import pymongo

    of_pymongo = "driver=pymongo" in url
    client: Any = (
        pymongo.AsyncMongoClient
        if of_pymongo
        else motor.motor_asyncio.AsyncIOMotorClient
    )
    # As safe as ours are: else it would be the journal that is measured.
    records = client(url.partition("?")[0])["floor"].get_collection(
        "records", write_concern=pymongo.WriteConcern("majority", j=True)
    )

    class Fill(FloorHandler):
        async def get(self) -> None:
            data = json.dumps(VALUES).encode()
            await records.insert_one({"_id": self.begin(), "version": 0, "data": data})

    class Read(FloorHandler):
        async def get(self) -> None:
            record = await records.find_one({"_id": self.key})
            self.write(json.loads(record["data"])["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            record = await records.find_one({"_id": key})
            values = json.loads(record["data"])
            change(values)
            version = record["version"]
            data = json.dumps(values).encode()
            await records.replace_one(
                {"_id": key, "version": version},
                {"version": version + 1, "data": data},
            )
            self.write("hello")

    return _routes(Fill, Read, Write)


def mysql(url: str) -> dict[str, type[FloorHandler]]:
    import asyncmy

    address = urlsplit(url)
    pools: list[Any] = []

    async def execute(sql: str, *values: object) -> Any:  # noqa: ANN401
        if not pools:
            create_pool: Any = asyncmy.create_pool
            pools.append(
                await create_pool(
                    host=address.hostname,
                    port=address.port,
                    user=address.username,
                    password=address.password,
                    database=address.path[1:],
                    autocommit=True,
                )
            )
            await execute("DROP TABLE IF EXISTS floor")
            await execute("CREATE TABLE floor (id BINARY(32) PRIMARY KEY, data BLOB)")
        async with pools[0].acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, values)
            return await cursor.fetchone()

    async def load(key: bytes) -> dict[str, Any]:
        (data,) = await execute("SELECT data FROM floor WHERE id = %s", key)
        values: dict[str, Any] = json.loads(data)
        return values

    class Fill(FloorHandler):
        async def get(self) -> None:
            data = json.dumps(VALUES).encode()
            await execute("INSERT INTO floor VALUES (%s, %s)", self.begin(), data)

    class Read(FloorHandler):
        async def get(self) -> None:
            self.write((await load(self.key))["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            values = await load(key)
            change(values)
            data = json.dumps(values).encode()
            await execute("UPDATE floor SET data = %s WHERE id = %s", data, key)
            self.write("hello")

    return _routes(Fill, Read, Write)


def redis(url: str) -> dict[str, type[FloorHandler]]:
    import redis.asyncio

    client: Any = redis.asyncio.Redis.from_url(url)

    class Fill(FloorHandler):
        async def get(self) -> None:
            await client.set(self.begin(), json.dumps(VALUES))

    class Read(FloorHandler):
        async def get(self) -> None:
            self.write(json.loads(await client.get(self.key))["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            values = json.loads(await client.get(key))
            change(values)
            await client.set(key, json.dumps(values))
            self.write("hello")

    return _routes(Fill, Read, Write)


def postgresql(url: str) -> dict[str, type[FloorHandler]]:
    import asyncpg

    pools: list[Any] = []

    async def fetch(sql: str, *values: object) -> list[Any]:
        if not pools:
            pools.append(await asyncpg.create_pool(url))
            await pools[0].execute(
                "DROP TABLE IF EXISTS floor;"
                "CREATE TABLE floor (key bytea PRIMARY KEY, version bigint, data bytea)"
            )
        rows: list[Any] = await pools[0].fetch(sql, *values)
        return rows

    class Fill(FloorHandler):
        async def get(self) -> None:
            data = json.dumps(VALUES).encode()
            await fetch("INSERT INTO floor VALUES ($1, 0, $2)", self.begin(), data)

    class Read(FloorHandler):
        async def get(self) -> None:
            [row] = await fetch("SELECT data FROM floor WHERE key = $1", self.key)
            self.write(json.loads(row["data"])["key5"])

    class Write(FloorHandler):
        async def get(self) -> None:
            key = self.key
            sql = "SELECT data, version FROM floor WHERE key = $1"
            [(data, version)] = await fetch(sql, key)
            values = json.loads(data)
            change(values)
            await fetch(
                "UPDATE floor SET data = $3, version = $2 + 1"
                " WHERE key = $1 AND version = $2",
                *(key, version, json.dumps(values).encode()),
            )
            self.write("hello")

    return _routes(Fill, Read, Write)


def _routes(
    fill: type[FloorHandler], read: type[FloorHandler], write: type[FloorHandler]
) -> dict[str, type[FloorHandler]]:
    return {"floor/fill": fill, "floor/read": read, "floor/write": write}
