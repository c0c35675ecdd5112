"""The subcommands of `renaissance` that are no tasks, one file each."""
