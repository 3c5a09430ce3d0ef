"""All benchmarks that take minutes, one after the other: `python -m benchmarks`; data and optim have their own."""

from benchmarks import imports, models, train, weights

imports.main()
models.main()
weights.main()
train.main()
