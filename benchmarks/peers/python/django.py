"""Django's own sessions, in a signed cookie or its cache, served by gunicorn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from benchmarks.peers.python.on_gunicorn import WSGI, serve
from benchmarks.peers.python.serving import PAUSE, SECRET
from benchmarks.values import VALUES, VALUES_4K, number

_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def filling(values: dict[str, str]) -> Callable[[HttpRequest], HttpResponse]:
    def fill(request: HttpRequest) -> HttpResponse:
        request.session.update(values)
        return HttpResponse("hello")

    return fill


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.session["key5"])


def write(request: HttpRequest) -> HttpResponse:
    request.session["count"] = number()
    return HttpResponse("hello")


def counter(request: HttpRequest) -> HttpResponse:
    n = request.session.get("n", 0)
    time.sleep(PAUSE)
    request.session["n"] = n + 1
    return HttpResponse("hello")


def keys(request: HttpRequest) -> HttpResponse:
    value = request.session["key5"]
    time.sleep(PAUSE)
    request.session[request.GET["key"]] = 1
    return HttpResponse(value)


def values(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(request.session.items()))


urlpatterns = [
    path("bare", hello),
    path("untouched", hello),
    path("read", read),
    path("write", write),
    path("write_4k", write),
    path("fill", filling(VALUES)),
    path("fill_4k", filling(VALUES_4K)),
    path("counter", counter),
    path("keys", keys),
    path("values", values),
]


def application(*middleware: str) -> WSGI:
    """Returns an application, which reads the settings when it is made."""
    settings.MIDDLEWARE = list(middleware)
    made: WSGI = WSGIHandler()
    return made


def main(url: str) -> None:
    engine = "signed_cookies" if url == "cookie" else "cache"
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
    settings.configure(
        DEBUG=False,
        ALLOWED_HOSTS=["127.0.0.1"],
        SECRET_KEY=SECRET,
        ROOT_URLCONF=__name__,
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
        CACHES={} if url == "cookie" else {"default": cache},
    )
    django.setup()
    bare, whole = application(), application(_MIDDLEWARE)
    routes: Iterable[str] = (
        *("untouched", "fill", "read", "write", "counter", "keys", "values"),
        *(() if url == "cookie" else ("fill_4k", "write_4k")),
    )
    applications: dict[str, Any] = dict.fromkeys(routes, whole)
    serve({"bare": bare, **applications})


if __name__ == "__main__":
    main(sys.argv[1])
