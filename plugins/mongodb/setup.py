import pathlib

from setuptools import setup

setup(
    name="tornado-sessions-mongodb",
    version="0.1.0",
    description="Keeps the sessions of tornado-sessions in MongoDB",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["tornado_sessions_mongodb"],
    package_data={"tornado_sessions_mongodb": ["py.typed"]},
    # Before 4.13.2 an AsyncMongoClient that found no server never found one later.
    install_requires=["tornado-sessions>=0.1,<1", "motor>=3.7", "pymongo>=4.13.2"],
    entry_points={
        "tornado_sessions.backends": [
            "mongodb = tornado_sessions_mongodb:MongoDBBackend",
            "mongodb+srv = tornado_sessions_mongodb:MongoDBBackend",
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
