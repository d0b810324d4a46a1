"""Process, files and machine; imports nothing of the package."""
