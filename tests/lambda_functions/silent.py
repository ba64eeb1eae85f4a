"""A client of a service that accepts and never answers, for functions under the real runtime client."""

from __future__ import annotations

import socket
from typing import Any

import boto3

silent = socket.create_server(("127.0.0.1", 0))
sqs: Any = boto3.client(
    "sqs",
    endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
    region_name="eu-west-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
