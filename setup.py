import pathlib
import re

from setuptools import setup

source = pathlib.Path("tornado_sessions/__init__.py").read_text(encoding="utf-8")
(version,) = re.findall(r'^version = "(.+)"$', source, re.MULTILINE)

setup(
    name="tornado-sessions",
    version=version,
    description="Sessions for Tornado: a visitor's data, kept across requests",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "tornado_sessions",
        "tornado_sessions.core",
        "tornado_sessions.http",
        "tornado_sessions.storage",
        "tornado_sessions.testing",
        "tornado_sessions.web",
    ],
    package_data={"tornado_sessions": ["py.typed"]},
    install_requires=["tornado>=6.5", "msgspec>=0.18"],
    extras_require={
        "cookie": ["tornado-sessions-cookie>=0.1,<1"],
        "memcached": ["tornado-sessions-memcached>=0.1,<1"],
        "memory": ["tornado-sessions-memory>=0.1,<1"],
        "mongodb": ["tornado-sessions-mongodb>=0.1,<1"],
        "mysql": ["tornado-sessions-mysql>=0.1,<1"],
        "postgresql": ["tornado-sessions-postgresql>=0.1,<1"],
        "redis": ["tornado-sessions-redis>=0.1,<1"],
        "sqlite": ["tornado-sessions-sqlite>=0.1,<1"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
)
