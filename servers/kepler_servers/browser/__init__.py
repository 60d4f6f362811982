"""The web pages of the servers: HTML that the server renders, with texts in English, German and Chinese.

This package has the parts that all pages share, and the pages of the model server. The modules
`offline_trainer.job_pages` and `meter.watts_page` have the pages of these servers.
"""
