"""Tables of features and power in CSV and Parquet files.

Data sets can be written as tables, and models can be trained from tables.

read_table(file, names, ...)    -> Table            the columns of a table, typed and checked
observe_tables([Table, ...])    -> Observations     what the tables contain, without impossible readings
TableRows([Table, ...], ...)    -> Extractor        yields the rows of the tables as data sets
write_dataset(Dataset, file)                        a data set as a table
"""
