"""The `spt` command line: parse, call one job of sptcore, print. Nothing here computes."""
