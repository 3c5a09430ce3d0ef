"""The subcommands of `foveal`: a configuration dataclass and `run(config) -> exit status` each."""
