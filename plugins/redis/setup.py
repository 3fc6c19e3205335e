import pathlib

from setuptools import setup

setup(
    name="tornado-sessions-redis",
    version="0.1.0",
    description="Keeps the sessions of tornado-sessions in Redis or Valkey",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["tornado_sessions_redis"],
    package_data={"tornado_sessions_redis": ["py.typed"]},
    install_requires=["tornado-sessions>=0.1,<1", "redis>=6,<9"],
    entry_points={
        "tornado_sessions.backends": [
            "redis = tornado_sessions_redis:RedisBackend",
            "redis+cluster = tornado_sessions_redis:RedisBackend",
            "redis+sentinel = tornado_sessions_redis:RedisBackend",
            "redis+unix = tornado_sessions_redis:RedisBackend",
            "rediss = tornado_sessions_redis:RedisBackend",
            "rediss+cluster = tornado_sessions_redis:RedisBackend",
            "rediss+sentinel = tornado_sessions_redis:RedisBackend",
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
