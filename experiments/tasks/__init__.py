"""One file a task: its claim, its protocol and the plan of its runs."""
