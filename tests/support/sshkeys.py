"""A public key, of which nobody has the private one."""

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAICTBAFPwShcow/mGqyNgyQJb1bqX8mXjrLyMfWGTdL25"
KEY = f"ssh-ed25519 {BLOB} me@here"
