"""Studies: what is measured about simjax, and beside what."""
