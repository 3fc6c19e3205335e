"""Tests of typed sessions: values that do not fit, and yesterday's schema."""

# As in any class of msgspec, an empty dict here is not shared.
# ruff: noqa: RUF012

from __future__ import annotations

import asyncio
import dataclasses
import traceback
from typing import Any, TypedDict

import msgspec
import pytest

from tests.shops import Color, Line, Shop, Use, ask, fail
from tests.sites import UNCAUGHT, Site
from tornado_sessions import Session, SessionData, SessionDataError, SessionMixin

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


class Checked(msgspec.Struct):
    name: str = ""

    def __post_init__(self) -> None:
        if self.name == "secret":
            raise ValueError(self.name)


class Odd:
    """Refuses to be compared."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]


class Place(TypedDict):
    street: str


class Inner(msgspec.Struct):
    tags: list[str] = []
    count: int = msgspec.field(name="a.b", default=0)


class Strict(SessionData):
    count: int = 0
    size: float = 0
    color: Color = Color.RED
    days: dict[str, dict[str, list[Line]]] = {}
    numbers: dict[int, int] = {}
    points: list[tuple[int, int]] = []
    checked: Checked = msgspec.field(default_factory=Checked)
    renamed: dict[str, Line] = msgspec.field(name="a.b", default_factory=dict)
    texts: list[str] = []
    anything: Any = None
    place: Place | None = None
    inner: Inner = msgspec.field(default_factory=Inner)


misspelt = Line("tea", "secret")  # type: ignore[arg-type]
unchecked = Checked("")
unchecked.name = "secret"
deep: list[Any] = []
for _ in range(101):
    deep = [deep]

cases: list[tuple[str, Any, str, str]] = [
    ("count", "secret", "'count'", "expected `int`, got `str`"),
    ("count", True, "'count'", "expected `int`, got `bool`"),
    ("size", float("nan"), "'size'", "expected `float`, got `null`"),
    ("color", "secret", "'color'", "invalid enum value"),
    ("color", "red", "'color'", "expected `Color`, got `str`"),
    (
        "days",
        {"a": {"b": [Line()]}, "c": {"d": [], "e": [Line(), misspelt], "f": []}},
        "'days'['c']['e'][1].count",
        "expected `int`, got `str`",
    ),
    (
        "days",
        {"a": {"b" * 50: [1]}},
        f"'days'['a']['{'b' * 40}…'][0]",
        "expected `object`, got `int`",
    ),
    ("numbers", {1: 1, "secret": 2}, "'numbers'", "expected `int`, got `str` as a key"),
    ("points", [(1, 2), [3, 4]], "'points'[1]", "expected `tuple`, got `list`"),
    ("checked", unchecked, "'checked'", "a check of its type refuses it"),
    ("renamed", {"tea": misspelt}, "'a.b'['tea'].count", "expected `int`, got `str`"),
    (
        "texts",
        ["ok", "\ud800"],
        "'texts'[1]",
        "JSON cannot hold str that is not Unicode",
    ),
    ("texts", [object()], "'texts'[0]", "JSON cannot hold object"),
    ("anything", {"a": [1, {2}]}, "'anything'['a'][1]", "expected `list`, got `set`"),
    (
        "place",
        {"street": "a", "secret": 1},
        "'place'",
        "this dict would come back as another value",
    ),
    ("inner", Inner(("a",)), "'inner'.tags", "expected `list`, got `tuple`"),  # type: ignore[arg-type]
    ("inner", Inner([], "secret"), "'inner'.a.b", "expected `int`, got `str`"),  # type: ignore[arg-type]
    ("anything", deep, "'anything'", "it is nested deeper than 100 levels"),
]


@pytest.mark.parametrize(("field", "value", "path", "reason"), cases)
async def test_a_value_that_does_not_fit_is_not_saved(
    site: Site, errors: list[str], field: str, value: object, path: str, reason: str
) -> None:
    """Behaviour 97: the error has the path and the types, and never the value."""
    token = await site.begin(theme="dark")

    async def use(session: Session[Any]) -> None:
        setattr(session.data, field, value)
        await session.save()

    error = await fail(site, errors, use, Strict)

    assert type(error) is SessionDataError
    assert str(error) == (
        f"The session value {path} does not fit the schema Strict: {reason}. Store a"
        " value of the declared type."
    )
    assert "secret" not in shown_by(error)
    assert await site.stored(token) == {"theme": "dark"}


def shown_by(error: Exception) -> str:
    """Returns what an error tracker finds: the message, and the frames that are ours."""
    shown = [str(error), repr(error.__context__)]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("tornado_sessions."):
            shown += [repr(value) for value in frame.f_locals.values()]
    return "\n".join(shown)


async def test_a_value_that_cannot_be_compared_is_not_saved(
    site: Site, errors: list[str]
) -> None:
    """Whatever it raises."""

    async def use(session: Session[Any]) -> None:
        session.data.anything = {"a": Odd()}
        await session.save()

    error = await fail(site, errors, use, Strict)

    assert (
        "'anything'['a'] does not fit the schema Strict: JSON cannot hold Odd"
        in str(error)
    )


async def test_the_response_of_a_value_that_does_not_fit_is_an_error(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 25, 97: nothing of that request is stored."""
    token = await site.begin(theme="dark")

    class Handler(SessionMixin[Shop]):
        def get(self) -> None:
            self.session.data.tags.add("a")
            self.session.data.cart["tea"] = "1"  # type: ignore[assignment]

    response = await site.fetch(Handler)
    errors.append("the session of Handler cannot be stored: The session value 'cart'")

    assert response.code == 500
    assert await site.stored(token) == {"theme": "dark"}


async def test_a_handler_can_repair_what_does_not_fit(site: Site) -> None:
    """As that of any value that cannot be stored."""

    async def use(session: Session[Shop]) -> None:
        session.data.cart["tea"] = "1"  # type: ignore[assignment]
        with pytest.raises(SessionDataError):
            await session.save()
        session.data.cart["tea"] = 1

    await ask(site, use)

    assert await site.stored() == {"cart": {"tea": 1}}


@pytest.mark.parametrize(
    ("field", "value", "path", "reason"),
    [
        ("count", "secret", "'count'", "expected `int`, got `str`"),
        ("color", "secret", "'color'", "invalid enum value"),
        (
            "days",
            {"a": {"b": [{}]}, "c": {"e": [{"count": "secret"}]}},
            "'days'['c']['e'][0].count",
            "expected `int`, got `str`",
        ),
        ("checked", {"name": "secret"}, "'checked'", "a check of its type refuses it"),
    ],
)
@pytest.mark.parametrize("is_mapping", [True, False])
async def test_a_stored_value_that_does_not_fit_is_not_read(
    site: Site,
    errors: list[str],
    is_mapping: bool,
    field: str,
    value: object,
    path: str,
    reason: str,
) -> None:
    """Behaviour 97: nothing is dropped, the record is as it was."""
    token = await site.begin(**{field: value})
    error = await fail(
        site,
        errors,
        lambda session: session[field] if is_mapping else getattr(session.data, field),
        Strict,
    )

    assert type(error) is SessionDataError
    assert str(error) == (
        f"The stored session value {path} does not fit the schema Strict: {reason}. The"
        " record was not changed. Convert the value in Strict.migrate()."
    )
    assert "secret" not in shown_by(error)
    assert await site.stored(token) == {field: value}


async def test_the_other_fields_of_such_a_record_can_be_used(site: Site) -> None:
    """Behaviour 97: a value that is not read is neither checked nor changed."""
    await site.begin(count="secret")

    def use(session: Session[Strict]) -> None:
        session.data.size = 1.5

    await ask(site, use, Strict)

    assert await site.stored() == {"count": "secret", "size": 1.5}


async def test_what_does_not_fit_can_be_replaced(site: Site) -> None:
    """It need not be read for that."""
    await site.begin(count="secret")
    await ask(site, lambda session: setattr(session.data, "count", 1), Strict)

    assert await site.stored() == {"count": 1}


# Yesterday's schema.


class Basket(SessionData):
    """What was ``cart``, a dict of counts, is a list of lines."""

    lines: list[Line] = []
    size: int = 0

    @classmethod
    def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "cart" in values:
            values["lines"] = [
                {"product": product, "count": n}
                for product, n in values.pop("cart").items()
            ]
        if isinstance(values.get("size"), str):
            values["size"] = int(values["size"])
        return super().migrate(values)


async def test_yesterdays_values_are_migrated(site: Site) -> None:
    """Behaviour 96: a field has another name, and another one another type."""
    await site.begin(cart={"tea": 2}, size="7", other=[1])

    assert await ask(site, lambda s: [s.data.lines[0].count, s.data.size], Basket) == [
        *(2, 7)
    ]
    assert await site.stored() == {
        "lines": [{"product": "tea", "count": 2}],
        "size": 7,
        "other": [1],
    }


async def test_they_are_migrated_before_anything_is_read(site: Site) -> None:
    """Also where the session is used as a mapping alone."""
    await site.begin(cart={"tea": 2}, size="7")

    assert await ask(site, lambda s: sorted(s), Basket) == ["lines", "size"]
    assert site.saves() == 1


async def test_what_has_been_migrated_is_not_saved_again(site: Site) -> None:
    """Behaviour 96: the next request finds nothing to change."""
    await site.begin(cart={"tea": 2})
    for _ in range(3):
        await ask(site, lambda session: len(session.data.lines), Basket)

    assert site.saves() == 1


async def test_a_migration_takes_nothing_from_another_request(site: Site) -> None:
    """Behaviours 36, 96: two requests load what was not migrated, and one only reads."""
    await site.begin(cart={"tea": 2})

    def add(session: Session[Basket]) -> None:
        session.data.lines.append(Line("kite"))

    async def read(session: Session[Basket]) -> int:
        await ask(site, add, Basket)
        return len(session.data.lines)

    assert await ask(site, read, Basket) == 1
    assert [line["product"] for line in (await site.stored() or {})["lines"]] == [
        *("tea", "kite")
    ]


async def test_a_change_by_the_version_before_is_migrated_with_a_merge(
    site: Site,
) -> None:
    """Behaviours 36, 96: while both run, as in a roll-out."""
    await site.begin(cart={"tea": 2})

    async def resize(session: Session[Basket]) -> None:
        session.data.size = 7
        await site.begin_again(cart={"tea": 3})

    await ask(site, resize, Basket)

    assert await site.stored() == {
        "lines": [{"product": "tea", "count": 3}],
        "size": 7,
    }


async def test_requests_that_are_saved_together_are_each_migrated(site: Site) -> None:
    """Behaviours 36, 96: each has migrated what it has loaded."""
    await site.begin(cart={"tea": 2})

    def resize(session: Session[Basket]) -> None:
        session.data.size = 7

    def add(session: Session[Basket]) -> None:
        session.data.lines.append(Line("kite"))

    site.vault.stop_before("save")
    first = asyncio.ensure_future(ask(site, resize, Basket))
    await site.vault.arrived.wait()
    second = asyncio.ensure_future(ask(site, add, Basket))
    (lane,) = site.sessions.lanes.lanes.values()
    while not lane.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    site.vault.resumed.set()
    await asyncio.gather(first, second)

    stored = await site.stored() or {}
    assert stored["size"] == 7
    assert [line["product"] for line in stored["lines"]] == ["tea", "kite"]


async def test_an_edit_that_migrates_takes_nothing_from_a_request(site: Site) -> None:
    """Behaviours 92, 96: the request has migrated the session as well."""
    session = await site.sessions.load(None)
    session.login("ada")
    session["cart"] = {"tea": 2}
    await session.save()
    site.token = session.expose_token()

    async with site.sessions.edit("ada", session.id, Basket) as edited:
        edited.data.size = 7
        await ask(site, lambda s: s.data.lines.append(Line("kite")), Basket)

    stored = await site.stored() or {}
    assert [line["product"] for line in stored["lines"]] == ["tea", "kite"]
    assert stored["size"] == 7


async def test_a_load_is_migrated_once(site: Site) -> None:
    """Behaviour 96: however often the session is used."""
    calls: list[Any] = []

    class Counting(SessionData):
        size: int = 0

        @classmethod
        def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
            calls.append(values)
            return values

    await site.begin(size=1)
    use: Use = lambda session: [session.data.size, session.data.size]

    assert await ask(site, use, Counting) == [1, 1]
    assert calls == [{"size": 1}]


async def test_a_new_session_is_not_migrated(site: Site) -> None:
    """There is nothing of yesterday in it."""

    class Never(SessionData):
        @classmethod
        def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
            raise AssertionError

    assert await ask(site, lambda session: dict(session), Never) == {}


async def test_a_migration_may_leave_what_does_not_fit(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 97: it raises when it is read, and the others can be used."""
    await site.begin(cart={"tea": 2}, lines=["secret"], size=3)
    error = await fail(site, errors, lambda session: session.data.lines, Unfinished)

    assert "The stored session value 'lines'[0] does not fit" in str(error)
    assert await ask(site, lambda session: session.data.size, Unfinished) == 3


class Unfinished(SessionData):
    lines: list[Line] = []
    size: int = 0

    @classmethod
    def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
        values.pop("cart", None)
        return values


async def test_a_migration_may_return_the_declared_types(site: Site) -> None:
    """Or their form in JSON."""

    class Typed(SessionData):
        lines: list[Line] = []
        color: Color = Color.RED

        @classmethod
        def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
            return {"lines": [Line("tea")], "color": Color.BLUE, "other": 1}

    await site.begin(cart={"tea": 2})
    await ask(site, lambda session: session.data.lines[0].product, Typed)

    assert await site.stored() == {
        "lines": [{"product": "tea"}],
        "color": "blue",
        "other": 1,
    }


async def test_a_transaction_migrates_what_it_loads(site: Site) -> None:
    """Behaviour 96: another process may have stored yesterday's form meanwhile."""

    def add(session: Session[Basket]) -> None:
        assert list(session) == ["size", "lines"]
        session.data.lines.append(Line("kite"))

    async def use(session: Session[Basket]) -> None:
        await site.begin_again(cart={"tea": 2})
        await session.transact(add)

    await site.begin(size=1)
    await ask(site, use, Basket)

    assert await site.stored() == {
        "size": 1,
        "lines": [{"product": "tea", "count": 2}, {"product": "kite"}],
    }


async def test_a_reload_migrates_what_it_loads(site: Site) -> None:
    """Behaviour 96: as does the first load."""

    async def use(session: Session[Basket]) -> list[str]:
        await site.begin_again(cart={"tea": 2})
        await session.reload()
        return list(session)

    await site.begin(size=1)

    assert await ask(site, use, Basket) == ["size", "lines"]


async def test_a_migration_that_fails_changes_nothing(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 96: the error is that of the application, with its own frames."""
    token = await site.begin(size="seven")

    class Handler(SessionMixin[Basket]):
        def get(self) -> None:
            self.session["other"] = 1

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            # A second call does not raise: the page can say who is signed in.
            error = kwargs["exc_info"][1]
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            self.write(f"{type(error).__name__} {frames[-1]} {self.session.user}")

    response = await site.fetch(Handler)
    errors.append(UNCAUGHT)

    assert (response.code, response.body) == (500, b"ValueError migrate None")
    assert await site.stored(token) == {"size": "seven"}


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (
            None,
            TypeError,
            (
                "Bad.migrate() returned an object of type NoneType. It has to return"
                " the dict of all values, whose keys are of type str."
            ),
        ),
        (
            {7: "secret"},
            TypeError,
            (
                "Bad.migrate() returned an object of type dict. It has to return the"
                " dict of all values, whose keys are of type str."
            ),
        ),
        (
            {"anything": deep},
            SessionDataError,
            (
                "The session value 'anything' does not fit the schema Bad: it is nested"
                " deeper than 100 levels. Store a value of the declared type."
            ),
        ),
        (
            {"lines": [{"count": "secret"}]},
            SessionDataError,
            (
                "The stored session value 'lines'[0].count does not fit the schema Bad:"
                " expected `int`, got `str`. The record was not changed. Convert the"
                " value in Bad.migrate()."
            ),
        ),
        (
            {"lines": [object()]},
            SessionDataError,
            (
                "The session value 'lines'[0] does not fit the schema Bad: JSON cannot"
                " hold object. Store a value of the declared type."
            ),
        ),
        (
            {"other": {1}},
            SessionDataError,
            "The session value 'other' cannot be stored as JSON: set. Store a list.",
        ),
    ],
)
async def test_a_migration_to_what_does_not_fit_changes_nothing(
    site: Site,
    errors: list[str],
    returned: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    """Behaviour 96: not even the values that do fit."""

    class Bad(SessionData):
        lines: list[Line] = []
        anything: Any = None

        @classmethod
        def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = returned and {"first": 1, **returned}
            return result

    token = await site.begin(size=1)

    class Handler(SessionMixin[Bad]):
        def get(self) -> None:
            try:
                self.session.user  # noqa: B018
            except (SessionDataError, TypeError) as error:
                raised.append(error)
            assert dict(self.session) == {"size": 1}

    raised: list[Exception] = []
    await site.fetch(Handler)
    (error,) = raised

    assert (type(error), str(error)) == (kind, message)
    assert "secret" not in shown_by(error)
    assert await site.stored(token) == {"size": 1}


# Other keys.


class Closed(SessionData, forbid_unknown_fields=True):
    theme: str = "light"


FORBIDDEN = (
    "The session has values that the schema Closed forbids: 'a', 'b'. Declare them,"
    " remove them in Closed.migrate(), or leave out forbid_unknown_fields."
)


async def test_a_schema_may_forbid_other_keys_in_the_store(
    site: Site, errors: list[str]
) -> None:
    """The first use of the session raises."""
    token = await site.begin(b=1, a=1, theme="dark")

    class Handler(SessionMixin[Closed]):
        def get(self) -> None:
            with pytest.raises(SessionDataError) as raised:
                self.session.user  # noqa: B018
            self.write(str(raised.value))

    response = await site.fetch(Handler)

    assert response.body.decode() == FORBIDDEN
    assert await site.stored(token) == {"b": 1, "a": 1, "theme": "dark"}


async def test_a_schema_may_forbid_to_set_other_keys(
    site: Site, errors: list[str]
) -> None:
    """The save raises."""

    async def use(session: Session[Any]) -> None:
        session.update(a=1, b=1, theme="dark")
        await session.save()

    error = await fail(site, errors, use, Closed)

    assert str(error) == FORBIDDEN


# Declarations.


@dataclasses.dataclass
class Changeable:
    n: int = 0


def test_each_field_has_a_default() -> None:
    """A new session has no values."""

    class Bad(SessionData):
        n: int

    with pytest.raises(TypeError) as raised:

        class Handler(SessionMixin[Bad]):
            pass

    assert str(raised.value) == (
        "The field 'n' of Bad has no default, and a new session has no values. Give it"
        " one, such as None."
    )


@pytest.mark.parametrize("default", ["1", Changeable()])
def test_a_default_fits_and_is_not_shared(default: Any) -> None:  # noqa: ANN401
    """A default that can be changed would be that of all visitors."""

    class Bad(SessionData):
        n: int | Changeable = default

    with pytest.raises(TypeError) as raised:

        class Handler(SessionMixin[Bad]):
            pass

    assert str(raised.value) == (
        "The default of the field 'n' of Bad cannot be used: it has to be a value of the"
        " declared type, and if it can be changed, it has to come from a"
        " default_factory."
    )


async def test_a_default_that_cannot_be_made_tells_no_values(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 8: the error is that of the application, with its own frames."""
    makers = [int]

    def make() -> int:
        return makers.pop()()

    class Once(SessionData):
        names: list[str] = []
        size: int = msgspec.field(default_factory=make)

    def read(session: Session[Once]) -> int:
        assert session.data.names
        return session.data.size

    await site.begin(names=["secret"])
    error = await fail(site, errors, read, Once)

    assert type(error) is IndexError
    assert "make" in [each.name for each in traceback.extract_tb(error.__traceback__)]
    assert "secret" not in shown_by(error)


def test_a_schema_is_a_subclass_of_session_data() -> None:
    """Whatever else msgspec can decode."""
    with pytest.raises(TypeError) as raised:

        class Handler(SessionMixin[Line]):  # type: ignore[type-var]
            pass

    assert str(raised.value) == (
        "SessionMixin[…] takes a subclass of SessionData, such as SessionMixin[Shop],"
        f" not {Line!r}."
    )


def test_a_field_may_be_called_migrate() -> None:
    """It is no migration then."""

    class Named(SessionData):
        migrate: int = 0  # type: ignore[assignment]

    class Handler(SessionMixin[Named]):
        pass

    assert Handler.session_schema is Named


async def test_a_logout_can_do_without_the_schema(
    site: Site, errors: list[str]
) -> None:
    """As docs/typed.md has it: the user can sign out, whatever is stored."""
    await site.begin(cart={"tea": 2})

    class Closed(SessionData, forbid_unknown_fields=True):
        size: int = 0

    class BaseHandler(SessionMixin[Closed]):
        def post(self) -> None:
            self.session.logout()

    class LogoutHandler(BaseHandler):
        session_schema = None

    token = site.token
    refused = await site.fetch(BaseHandler, "POST")
    errors.append(UNCAUGHT)
    left = await site.stored(token)
    done = await site.fetch(LogoutHandler, "POST")

    assert (refused.code, left) == (500, {"cart": {"tea": 2}})
    assert (done.code, await site.stored(token)) == (200, None)
