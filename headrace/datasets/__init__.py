"""Datasets: files of records in, files of results out.

In the order that data flows: `files` lists what there is to read and opens it, held to what was
listed; `shards` cuts it; `reading` brings rows, format by format (`parquet`, `jsonl`,
`delimited`); `columns` turns their columns into a model's inputs (`arrays` knows how one column
does); `writing` takes outputs to a file again. A bad row is a `Reject`, and stops nothing else.
"""

from headrace.errors import NotInstalled

try:
    import pyarrow as pyarrow
except ImportError as missing:
    raise NotInstalled("pyarrow, for datasets,", "datasets") from missing
