"""The consortium's service: a stateless ASGI application over SQL and a blob store, and the driver of runs."""

from locum.coordinator.app import Coordinator
from locum.coordinator.config import Folder, Settings, init_folder
from locum.coordinator.server import invite, revoke, serve

__all__ = ["Coordinator", "Folder", "Settings", "init_folder", "invite", "revoke", "serve"]
