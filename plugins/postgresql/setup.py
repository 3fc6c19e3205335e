import pathlib

from setuptools import setup

setup(
    name="tornado-sessions-postgresql",
    version="0.1.0",
    description="Keeps the sessions of tornado-sessions in PostgreSQL",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["tornado_sessions_postgresql"],
    package_data={"tornado_sessions_postgresql": ["py.typed"]},
    install_requires=["tornado-sessions>=0.1,<1", "asyncpg>=0.30"],
    entry_points={
        "tornado_sessions.backends": [
            "postgresql = tornado_sessions_postgresql:PostgreSQLBackend",
        ],
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
