"""Changing the schema: one runner at a time, and errors that a script can tell apart."""

import sys

# Alembic's templates would highlight their own errors, by 5 MB of lexers in each worker. An entry
# of None makes that import fail, which Mako is prepared for.
sys.modules.setdefault("mako.ext.pygmentplugin", None)  # type: ignore[arg-type] # documented so
