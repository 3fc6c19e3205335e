import pathlib

from setuptools import setup

setup(
    name="tornado-sessions-mysql",
    version="0.1.0",
    description="Keeps the sessions of tornado-sessions in MySQL or MariaDB",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["tornado_sessions_mysql"],
    package_data={"tornado_sessions_mysql": ["py.typed"]},
    # MySQL 8 takes a password over a connection without TLS only if it is encrypted.
    install_requires=[
        "tornado-sessions>=0.1,<1",
        "asyncmy>=0.2.18",
        "cryptography>=42",
    ],
    entry_points={
        "tornado_sessions.backends": ["mysql = tornado_sessions_mysql:MySQLBackend"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
)
