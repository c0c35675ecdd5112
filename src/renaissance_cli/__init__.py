"""
The command `renaissance`. Nothing here imports torch, so that help and mistakes are shown at once: what a subcommand
runs, in the package `renaissance`, is imported only after its options have been checked.
"""
