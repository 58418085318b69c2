"""One module per command of the command line; `longtake.cli` puts them together."""
