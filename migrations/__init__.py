"""alembic revisions of the job table; in the wheel as ``headrace/_migrations``."""
