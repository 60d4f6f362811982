"""Tests of the packages that setup.cfg puts into the distribution."""

from __future__ import annotations

import configparser

from support.paths import ROOT

ROOTS = (".", "plugins", "profiler", "servers", "config")
"""Folders of the repository that each contain one import package."""


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_setup_cfg_lists_every_package() -> None:
    """setup.cfg lists the packages of all folders by name, because `find:` of setuptools searches one folder only."""
    listed = setup_cfg()["options"]["packages"].split()
    folders = {
        ".".join(init.parent.relative_to(ROOT / root).parts)
        for root in ROOTS
        for package in (ROOT / root).glob("kepler_*")
        for init in package.rglob("__init__.py")
    }
    assert sorted(listed) == sorted(folders)


def test_setup_cfg_maps_every_root() -> None:
    lines = setup_cfg()["options"]["package_dir"].strip().splitlines()
    for name, _, folder in (line.partition(" = ") for line in lines):
        assert (ROOT / folder / "__init__.py").is_file(), name
