"""All benchmarks, one after the other: `python -m benchmarks`."""

from benchmarks import imports, models

imports.main()
models.main()
