"""Schema migrations (Alembic), packaged with the code that needs them."""
