"""What a dataset consists of: records, their checks, the readers of annotation files."""
