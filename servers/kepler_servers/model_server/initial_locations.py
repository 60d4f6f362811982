"""The locations from which a model server imports pipelines when it starts."""

from __future__ import annotations

DATABASE_VERSION = "v0.7"
"""Folder of the public model database, kepler-model-db, whose pipelines kepler-model-server 0.7 serves."""

DATABASE_PIPELINES = ("ec2-0.7.11", "specpower-0.7.11")
"""Pipelines that kepler-model-server 0.7 imports from the public model database by default."""

TRAINED_PIPELINE = "std_v0.7.11"
"""Name of the pipelines that kepler-model-server itself trains. Version 0.7 imports the pipeline of this name from
databases other than the public database."""


def initial_locations(pipeline_urls: str | None, database: str | None) -> tuple[tuple[str, ...], ...]:
    """Return, for each pipeline to import at the start, the locations to try one after the other.

    `pipeline_urls` is the value of INITIAL_PIPELINE_URL: locations separated by commas. `database` is the value of
    MODEL_TOPURL: the URL of a copy of the public model database, with or without the folder `DATABASE_VERSION` at its
    end, or the URL of the folder that holds `TRAINED_PIPELINE`. `database` is used only if `pipeline_urls` is None.
    """
    if pipeline_urls is not None:
        return tuple((url,) for url in map(str.strip, pipeline_urls.split(",")) if url)
    if database is None:
        return ()
    top = database.rstrip("/")
    folders = [top] if top.endswith(f"/{DATABASE_VERSION}") else [top, f"{top}/{DATABASE_VERSION}"]
    return tuple(
        (*(f"{folder}/{name}.zip" for folder in folders), f"{top}/{TRAINED_PIPELINE}.zip")
        for name in DATABASE_PIPELINES
    )
