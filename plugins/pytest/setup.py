import pathlib

from setuptools import setup

setup(
    name="pytest-tornado-sessions",
    version="0.1.0",
    description="Fixtures of pytest for applications with tornado-sessions",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=["pytest_tornado_sessions"],
    package_data={"pytest_tornado_sessions": ["py.typed"]},
    install_requires=["tornado-sessions[memory]>=0.1,<1", "pytest>=7"],
    entry_points={
        "pytest11": ["tornado_sessions = pytest_tornado_sessions"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: AsyncIO",
        "Framework :: Pytest",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Topic :: Software Development :: Testing",
        "Typing :: Typed",
    ],
)
