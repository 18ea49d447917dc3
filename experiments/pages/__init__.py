"""Contents of the pages: what each says, its tables and its figures."""
