"""Write a small parquet file, of several row groups."""

import json
import sys

import pyarrow  # type: ignore[import-not-found]
import pyarrow.parquet  # type: ignore[import-not-found]

rows = [{"text": f"row {index}", "index": index} for index in range(1000)]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sys.argv[1], row_group_size=100)
json.dump({"rows": rows}, sys.stdout)
