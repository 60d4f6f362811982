"""Read an exporter's metrics directly, without Prometheus.

parse_exposition(bytes, ...)   -> list[ScrapedSample]   the samples in a text that an exporter serves
Scraper(url).scrape()          -> Scrape                one reading of an exporter
Readings                                                several readings, as a recording
"""
