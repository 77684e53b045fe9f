"""How any party calls the coordinator: signed, resumable, patient HTTPS."""

from locum.client.api import Api
from locum.client.blocking import Client
from locum.client.connection import Connection
from locum.client.membership import Membership, join
from locum.client.patience import A_WHILE, FOR_EVER, Patience

__all__ = ["A_WHILE", "FOR_EVER", "Api", "Client", "Connection", "Membership", "Patience", "join"]
