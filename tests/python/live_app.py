"""A dashboard with live figures: real Flask-SocketIO, one room per tenant, a message queue in Redis.

Run by gunicorn with one worker per process (`gunicorn -k gevent -w 1 live_app:app`), as Flask-SocketIO needs it; several
processes find each other through the queue. It knows nothing of the gateway but the fields that it may believe.

environment: LIVE_REDIS     the queue (redis://…)
             LIVE_CLIENT    the file of the socket.io client for browsers
             LIVE_NAME      what this process calls itself
             LIVE_EMITTER   "1": this process emits a tick every 100 ms, for everyone, through the queue
             JWT_SECRET     signs the tokens that the page gets
"""
import os
import time

import jwt
from flask import Flask, jsonify, request, send_file
from flask_socketio import SocketIO, emit, join_room

NAMESPACE = "/ws"
SECRET = os.environ["JWT_SECRET"]

app = Flask(__name__)
socketio = SocketIO(app, message_queue=os.environ["LIVE_REDIS"], async_mode="gevent", cors_allowed_origins="*")
orders: dict[str, int] = {}

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Live</title><script src="/client.js"></script></head>
<body><p id="status">-</p><p id="orders">-</p><script>window.TOKEN = "%s";</script></body>
</html>
"""


@app.get("/")
def page():
    claims = {
        "sub": request.args.get("user", "ann"),
        "tenant": request.args.get("tenant", "public"),
        "exp": int(time.time()) + 3600,
    }
    return PAGE % jwt.encode(claims, SECRET, algorithm="HS256")


@app.get("/client.js")
def client():
    return send_file(os.environ["LIVE_CLIENT"], mimetype="text/javascript")


@app.get("/name")
def name():
    return jsonify(name=os.environ["LIVE_NAME"])


def tenant_of_caller():
    """Whom the gateway has verified; else whom the token in the query says, as an application by itself would do."""
    if tenant := request.headers.get("X-Tenant"):
        return tenant, "gateway"
    try:
        return jwt.decode(request.args["token"], SECRET, algorithms=["HS256"])["tenant"], "application"
    except (KeyError, jwt.PyJWTError):
        return None, None


@socketio.on("connect", namespace=NAMESPACE)
def on_connect():
    tenant, by = tenant_of_caller()
    if tenant is None:
        return False
    join_room(f"tenant:{tenant}")
    emit("hello", {"tenant": tenant, "verified_by": by, "server": os.environ["LIVE_NAME"]})
    return None


@socketio.on("ask", namespace=NAMESPACE)
def on_ask(question):
    return {"answer": question, "server": os.environ["LIVE_NAME"]}


@app.post("/orders")
def order():
    tenant, _ = tenant_of_caller()
    orders[tenant] = orders.get(tenant, 0) + 1
    kpi = {"orders_today": orders[tenant], "tenant": tenant}
    socketio.emit("metric_update", {"kpi": kpi}, room=f"tenant:{tenant}", namespace=NAMESPACE)
    return jsonify(ok=True)


def tick():
    number = 0
    while True:
        socketio.sleep(0.1)
        number += 1
        socketio.emit("metric_update", {"tick": number}, namespace=NAMESPACE)


if os.environ.get("LIVE_EMITTER") == "1":
    socketio.start_background_task(tick)
