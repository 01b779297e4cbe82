"""A database without this release's schema is a setting to mend, not a server to wait for."""

import pytest
import sqlalchemy as sa

from headrace.db import models
from headrace.db.engine import Database
from headrace.errors import ConfigError


@pytest.mark.parametrize(
    "damage", ["DROP TABLE model_versions", "ALTER TABLE models DROP COLUMN stable"]
)
def test_it_says_which_command_mends_it(database: Database, damage: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(damage))
    for using in (database.read, database.write, database.single):
        with pytest.raises(ConfigError, match="headrace db upgrade"), using() as connection:
            models.find(connection, "any", None)
