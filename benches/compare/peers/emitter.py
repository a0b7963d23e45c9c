"""A fan-out by Flask-SocketIO: one process of gunicorn with gevent; a POST emits its body to everyone."""

import json

from flask import Flask, request
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent", ping_interval=3600, cors_allowed_origins="*")


@app.post("/push")
def push():
    """Emits to all who are connected."""
    socketio.emit("metric_update", json.loads(request.get_data()))
    return "", 204
