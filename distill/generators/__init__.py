"""Generators and discriminators, one paper a file (`mosaic`, `mad`), and how a class enters one (`conditioning`)."""
