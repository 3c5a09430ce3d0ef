"""All benchmarks, one after the other: `python -m benchmarks`."""

from benchmarks import imports, models, weights

imports.main()
models.main()
weights.main()
