"""The server side of a public page: request guard, disk quota, request log, shutdown and model handle."""
