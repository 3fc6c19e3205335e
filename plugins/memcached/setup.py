import pathlib

from setuptools import setup

setup(
    name="tornado-sessions-memcached",
    version="0.1.0",
    description="Keeps the sessions of tornado-sessions in memcached",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["tornado_sessions_memcached"],
    package_data={"tornado_sessions_memcached": ["py.typed"]},
    install_requires=["tornado-sessions>=0.1,<1", "aiomcache>=0.8,<0.9"],
    entry_points={
        "tornado_sessions.backends": [
            "memcached = tornado_sessions_memcached:MemcachedBackend"
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
