"""What keeps a public page going: request guard, disk, log lines, the end, the model behind it."""
