"""Tests of typed sessions: the fields that a handler declares, over HTTP."""

# mypy: warn-unused-ignores, disallow-any-generics

from __future__ import annotations

import asyncio
import copy
import datetime
import pickle
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import pytest
from tornado.websocket import WebSocketHandler

from tests.shops import Color, Line, Shop, Use, ask, fail, handler_of
from tests.sites import STORE_FAILED, Read, Site, cookies
from tornado_sessions import (
    Session,
    SessionData,
    SessionError,
    SessionMixin,
    Sessions,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]

NOON = datetime.datetime(2030, 1, 2, 12, tzinfo=datetime.timezone.utc)
VISITOR = uuid.UUID(int=7)

STORED = {
    "cart": {"tea": 2},
    "theme": "dark",
    "lines": [{"product": "tea", "count": 2}],
    "tags": ["b", "a"],
    "since": "2030-01-02T12:00:00Z",
    "color": "blue",
    "pair": [2, "b"],
    "visitor": str(VISITOR),
    "by_day": {"2030-01-02": [{"product": "tea"}]},
}

TYPED = Shop(
    cart={"tea": 2},
    theme="dark",
    lines=[Line("tea", 2)],
    tags={"a", "b"},
    since=NOON,
    color=Color.BLUE,
    pair=(2, "b"),
    visitor=VISITOR,
    by_day={NOON.date(): [Line("tea")]},
)


# Reading.


async def test_a_new_session_has_the_defaults_and_is_not_stored(site: Site) -> None:
    """Behaviours 13, 95: to read all, also those that can be changed, is no change."""
    response = await site.fetch(handler_of(lambda session: session.data == Shop()))

    assert (response.body, cookies(response)) == (b"true", [])
    assert site.saves() == 0


async def test_stored_values_have_their_declared_types(site: Site) -> None:
    """Behaviour 95: dates, enums, sets, tuples, UUIDs, and structs inside of them."""
    await site.begin(**STORED)

    assert await ask(site, lambda session: session.data == TYPED)


async def test_what_was_only_read_is_not_saved(site: Site) -> None:
    """Behaviour 95: also where JSON has other forms of it, and where fields are missing."""
    await site.begin(**STORED | {"lines": [{}], "since": "2030-01-02T12:00:00.000Z"})
    await ask(site, lambda session: str(copy.copy(session.data)))

    assert site.saves() == 0


async def test_a_missing_value_is_the_default(site: Site) -> None:
    """A record of yesterday has no field of today."""
    await site.begin(theme="dark")

    assert await ask(site, lambda s: [s.data.theme, s.data.cart, s.data.pair[0]]) == [
        *("dark", {}, 1)
    ]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_both_ways_lead_to_one_object(site: Site, is_stored: bool) -> None:
    """Behaviour 95: whichever is read first, there is nothing to get out of step."""
    if is_stored:
        await site.begin(**STORED)

    def read(session: Session[Shop]) -> bool:
        cart = session.data.cart
        return session["cart"] is cart and session.data.cart is cart

    assert await ask(site, read)


async def test_the_mapping_has_the_declared_types(site: Site) -> None:
    """Also where it is read first."""
    await site.begin(**STORED)

    assert await ask(
        site, lambda s: s["tags"] == {"a", "b"} and s["tags"] is s.data.tags
    )


async def test_the_mapping_has_no_defaults(site: Site) -> None:
    """It has what is stored or was set."""
    await site.begin(other=1)
    read: Use = lambda s: [s.data.theme, dict(s), s.get("theme"), "theme" in s]

    assert await ask(site, read) == ["light", {"other": 1}, None, False]


async def test_what_one_way_sets_the_other_one_reads(site: Site) -> None:
    """As there is one place for it."""

    def swap(session: Session[Shop]) -> list[Any]:
        session["theme"] = "dark"
        session.data.cart = {"tea": 1}
        return [session.data.theme, session["cart"]]

    assert await ask(site, swap) == ["dark", {"tea": 1}]
    assert await site.stored() == {"theme": "dark", "cart": {"tea": 1}}


async def test_a_deleted_field_has_its_default_again(site: Site) -> None:
    """Twice is no error."""
    await site.begin(theme="dark", cart={"tea": 1})

    def delete(session: Session[Shop]) -> str:
        del session.data.theme
        del session.data.theme
        return session.data.theme

    assert await ask(site, delete) == "light"
    assert await site.stored() == {"cart": {"tea": 1}}


async def test_a_method_of_the_schema_uses_the_session(site: Site) -> None:
    """`session.data` is an instance of the schema."""
    await site.begin(cart={"tea": 2, "kite": 1})

    assert await ask(site, lambda s: [s.data.total(), isinstance(s.data, Shop)]) == [
        *(3, True)
    ]


async def test_a_copy_is_a_plain_instance(site: Site) -> None:
    """It is compared, encoded and pickled as msgspec does that."""
    await site.begin(**STORED)
    copies: Use = lambda s: [
        type(copied) is Shop and copied == TYPED and s.data == copied
        for copied in (
            copy.copy(s.data),
            copy.deepcopy(s.data),
            pickle.loads(pickle.dumps(s.data)),
        )
    ]

    assert await ask(site, copies) == [True] * 3


async def test_the_data_is_not_encoded_by_mistake(
    site: Site, errors: list[str]
) -> None:
    """msgspec reads around the properties: it would find defaults."""
    await site.begin(**STORED)
    error = await fail(site, errors, lambda session: msgspec.json.encode(session.data))

    assert "NotInCopy" in str(error)


async def test_the_data_shows_no_values(site: Site) -> None:
    """Behaviour 8: neither does the session."""
    await site.begin(**STORED)

    assert await ask(site, lambda s: repr(s.data)) == "<Shop of a session>"


async def test_a_name_that_is_not_declared_cannot_be_set(
    site: Site, errors: list[str]
) -> None:
    """A typing mistake is found at once."""

    def mistype(session: Session[Any]) -> None:
        session.data.thema = "dark"

    error = await fail(site, errors, mistype)

    assert str(error) == "'Shop' object has no attribute 'thema'"


# Saving.


def in_dict(shop: Shop) -> None:
    shop.cart["kite"] = 1


def in_list_of_structs(shop: Shop) -> None:
    shop.lines[0].count = 5


def in_set(shop: Shop) -> None:
    shop.tags.remove("a")


def in_struct(shop: Shop) -> None:
    shop.first.count = 3


def by_assignment(shop: Shop) -> None:
    shop.color, shop.since, shop.visitor = Color.RED, NOON.replace(hour=3), None


def by_day(shop: Shop) -> None:
    shop.by_day[NOON.date()].append(Line("kite"))


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        (in_dict, {"cart": {"tea": 2, "kite": 1}}),
        (in_list_of_structs, {"lines": [{"product": "tea", "count": 5}]}),
        (in_set, {"tags": ["b"]}),
        (in_struct, {"first": {"count": 3}}),
        (
            by_assignment,
            {"color": "red", "since": "2030-01-02T03:00:00Z", "visitor": None},
        ),
        (by_day, {"by_day": {"2030-01-02": [{"product": "tea"}, {"product": "kite"}]}}),
    ],
)
async def test_a_nested_change_is_saved(
    site: Site, change: Callable[[Shop], None], stored: dict[str, Any]
) -> None:
    """Behaviours 21, 95: whatever type it is in."""
    await site.begin(**STORED)
    await ask(site, lambda session: change(session.data))

    assert await site.stored() == STORED | stored


async def test_a_default_that_is_changed_is_stored(site: Site) -> None:
    """Behaviour 95: nobody has assigned it."""

    def add(session: Session[Shop]) -> None:
        session.data.cart["tea"] = 1

    await ask(site, add)

    assert await site.stored() == {"cart": {"tea": 1}}


async def test_a_default_of_one_visitor_is_not_that_of_another(site: Site) -> None:
    """Each gets a new one."""

    def add(session: Session[Shop]) -> int:
        session.data.cart["tea"] = 1
        session.data.first.count += 1
        return len(session.data.cart) + session.data.first.count

    assert await ask(site, add) == 3
    site.token = None
    assert await ask(site, add) == 3


async def test_a_default_that_is_assigned_is_stored(site: Site) -> None:
    """It is a choice of the visitor, and the default may be another one tomorrow."""

    def choose(session: Session[Shop]) -> None:
        session.data.theme = "light"
        session.data.cart = {}

    await ask(site, choose)

    assert await site.stored() == {"theme": "light", "cart": {}}


async def test_a_default_that_is_never_the_same_is_stored_when_read(site: Site) -> None:
    """Such as a random one: the next request reads it again."""

    class Visitor(SessionData):
        number: uuid.UUID = msgspec.field(default_factory=uuid.uuid4)

    first = await ask(site, lambda session: session.data.number, Visitor)

    assert await ask(site, lambda session: session.data.number, Visitor) == first


async def test_other_handlers_share_the_session(site: Site) -> None:
    """Behaviour 95: their keys are left alone, and they see the fields as JSON."""
    await site.begin(other=[1], tags=["a"])
    await ask(site, in_cart("tea"))
    response = await site.fetch(Read)

    assert msgspec.json.decode(response.body) == {
        "other": [1],
        "tags": ["a"],
        "cart": {"tea": 1},
    }


def in_cart(product: str) -> Use:
    def add(session: Session[Shop]) -> None:
        cart = session.data.cart
        cart[product] = cart.get(product, 0) + 1

    return add


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (in_cart("kite"), in_cart("umbrella"), {"cart": {"kite": 1, "umbrella": 1}}),
        (
            in_cart("kite"),
            lambda s: in_struct(s.data),
            {"cart": {"kite": 1}, "first": {"count": 3}},
        ),
        (
            lambda s: setattr(s.data.first, "product", "tea"),
            lambda s: in_struct(s.data),
            {"first": {"product": "tea", "count": 3}},
        ),
    ],
)
async def test_two_requests_are_merged(
    site: Site, one: Use, other: Use, both: dict[str, Any]
) -> None:
    """Behaviours 36, 95: by field, and by key or field inside of it."""
    await site.begin(theme="dark")

    async def use(session: Session[Shop]) -> None:
        one(session)
        await ask(site, other)

    await ask(site, use)

    assert await site.stored() == {"theme": "dark", **both}


async def test_a_transaction_has_the_typed_view(site: Site) -> None:
    """Behaviour 37: each run is on the newest values, and none is lost."""
    await site.begin(cart={"tea": 1})
    add = in_cart("tea")
    many = [ask(site, lambda session: session.transact(add)) for _ in range(5)]
    await asyncio.gather(*many)

    assert await site.stored() == {"cart": {"tea": 6}}


async def test_a_reload_has_the_newest_values(site: Site) -> None:
    """The data was not copied."""
    await site.begin(cart={"tea": 1})

    async def reload(session: Session[Shop]) -> list[int]:
        data = session.data
        before = data.cart["tea"]
        await ask(site, in_cart("tea"))
        await session.reload()
        return [before, data.cart["tea"]]

    assert await ask(site, reload) == [1, 2]


async def test_a_late_change_of_a_field_is_counted(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning knows typed values, and no default that was only read."""
    await site.begin(tags=["a"])

    class Handler(SessionMixin[Shop]):
        def get(self) -> None:
            self.finish()
            assert self.session.data.cart == {}
            assert self.session.data.tags == {"a"}
            self.session.data.color = Color.BLUE

    await site.fetch(Handler)

    assert "that is lost: 1 key." in caplog.text


# Handlers.


async def test_a_subclass_has_the_schema_of_its_handler(site: Site) -> None:
    """As an application has one handler that all others are derived from."""
    await site.begin(theme="dark")

    class Base(SessionMixin[Shop]):
        pass

    class Handler(Base):
        def get(self) -> None:
            self.write(self.session.data.theme)

    assert (await site.fetch(Handler)).body == b"dark"


async def test_a_generic_handler_takes_the_schema_later(site: Site) -> None:
    """`SessionMixin` is a generic class, as those of `typing` are."""
    await site.begin(theme="dark")
    data = TypeVar("data", bound=SessionData)
    other = TypeVar("other")

    class Base(SessionMixin[data], Generic[other, data]):
        pass

    class Handler(Base[int, Shop]):
        def get(self) -> None:
            self.write(self.session.data.theme)

    assert (await site.fetch(Handler)).body == b"dark"


def test_a_websocket_has_a_schema() -> None:
    """The bases stand in the same order as without one."""

    class Handler(SessionMixin[Shop], WebSocketHandler):
        pass

    assert Handler.session_schema is Shop
    assert Handler.__mro__.index(SessionMixin) < Handler.__mro__.index(WebSocketHandler)


async def test_without_a_schema_there_is_no_data(site: Site) -> None:
    """The error says how to declare one."""

    class Handler(SessionMixin):
        def get(self) -> None:
            with pytest.raises(AttributeError) as raised:
                self.session.data  # noqa: B018
            self.write(str(raised.value))

    response = await site.fetch(Handler)

    assert response.body.decode() == (
        "session.data needs a schema. Declare one: class CartHandler(SessionMixin[Shop]),"
        " where Shop is a subclass of SessionData."
    )


async def test_the_page_of_an_early_error_has_the_defaults(site: Site) -> None:
    """Behaviour 75: it comes before the session was loaded, and nothing can be set."""
    await site.begin(theme="dark")

    class Handler(SessionMixin[Shop]):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            data = self.session.data
            try:
                data.theme = "dark"
            except SessionError:
                self.write(f"{data.theme} {data.cart}")

    response = await site.fetch(Handler, method="BREW")

    assert (response.code, response.body) == (405, b"light {}")


async def test_a_session_is_loaded_with_a_schema(site: Site) -> None:
    """For code outside of handlers."""
    await site.begin(tags=["a"])
    session = await site.sessions.load(site.token, Shop)
    session.data.tags.add("b")
    await session.save()

    assert len((await site.stored() or {})["tags"]) == 2


async def test_a_session_is_edited_with_a_schema(site: Site) -> None:
    """A migration is stored with the edit."""

    class Themed(SessionData):
        theme: str = "light"
        colors: set[Color] = msgspec.field(default_factory=set)

        @classmethod
        def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
            values.pop("size", None)
            return values

    session = await site.sessions.load(None)
    session.login("ada")
    session["size"] = 1
    await session.save()
    async with site.sessions.edit("ada", session.id, Themed) as edited:
        edited.data.colors.add(Color.RED)
    await session.reload()

    assert dict(session) == {"colors": ["red"]}


@pytest.mark.parametrize("flushes", [True, False])
@pytest.mark.parametrize("changes", [True, False])
async def test_a_change_of_a_default_is_not_lost_while_the_store_is_down(
    site: Site, errors: list[str], changes: bool, flushes: bool
) -> None:
    """Behaviour 94: a change in place raises as well, before the response is sent."""
    await site.begin(theme="dark")

    class Handler(SessionMixin[Shop]):
        session_optional = True

        async def get(self) -> None:
            cart = self.session.data.cart
            if changes:
                cart["tea"] = 1
            self.write(f"{cart} {self.session.data.theme}")
            if flushes:
                await self.flush()

    site.vault.failing = {"load"}
    response = await site.fetch(Handler)
    errors.append("No session for GET")
    if changes:
        errors.append(STORE_FAILED)

    assert response.code == (503 if changes else 200)
    assert (response.body == b"{} light") is not changes


if TYPE_CHECKING:
    # A type checker is the one that runs these. What is wrong has to be an error: a
    # comment that ignores none is one as well.

    class TypedHandler(SessionMixin[Shop]):
        async def get(self) -> None:
            assert_type(self.session, Session[Shop])
            assert_type(self.session.data, Shop)
            assert_type(self.session.data.cart["tea"], int)
            assert_type(await self.session.transact(lambda s: s.data.total()), int)
            self.session.data.theme = "dark"
            self.session.data.theme = "blue"  # type: ignore[assignment]
            self.session.data.thema  # type: ignore[attr-defined]  # noqa: B018

    class TypedSocket(SessionMixin[Shop], WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            assert_type(self.session.data.total(), int)
            await self.session.transact(use_any_session)

    class PlainHandler(SessionMixin):
        def get(self) -> None:
            assert_type(self.session, Session)
            self.session.data.cart  # type: ignore[attr-defined]  # noqa: B018

    class WrongHandler(SessionMixin[int]):  # type: ignore[type-var]
        pass

    def use_any_session(session: Session) -> None: ...

    async def use_outside_of_handlers(sessions: Sessions) -> None:
        assert_type(await sessions.load(None), Session)
        assert_type(await sessions.load(None, Shop), Session[Shop])
        async with sessions.edit("ada", "handle") as session:
            assert_type(session, Session)
        async with sessions.edit("ada", "handle", Shop) as typed:
            assert_type(typed.data, Shop)
