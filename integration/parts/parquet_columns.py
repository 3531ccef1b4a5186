"""Reads Parquet files whole and prints their leaf columns.

usage: parquet_columns.py FILE...

The output is a list with an object a file: rows, row_groups, and columns as [path, physical type, max definition level, max repetition level].
"""

import json
import sys

import pyarrow.parquet


def describe(path):
    file = pyarrow.parquet.ParquetFile(path)
    table = file.read()
    table.validate(full=True)
    assert table.num_rows == file.metadata.num_rows, path
    leaves = [file.schema.column(index) for index in range(len(file.schema.names))]
    return {
        "rows": file.metadata.num_rows,
        "row_groups": file.metadata.num_row_groups,
        "columns": [[leaf.path, leaf.physical_type, leaf.max_definition_level, leaf.max_repetition_level] for leaf in leaves],
    }


json.dump([describe(path) for path in sys.argv[1:]], sys.stdout)
