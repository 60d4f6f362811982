"""The web pages of the servers: HTML that the server renders, with texts in English, German and Chinese.

This package has the parts that all pages share, and the pages of the model server. The module
`offline_trainer.job_pages` has the pages of the offline trainer, and `meter.watts_page` has the page of the meter.
"""
