"""The tests mirror `src/longtake`; `parity` compares with what the published code computed."""
