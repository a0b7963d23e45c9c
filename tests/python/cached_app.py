"""A dashboard as Flask-Caching has it: the answer is cached under a version that the application itself moves.

Run by gunicorn (`gunicorn cached_app:app`). It knows nothing of the gateway.

environment: CACHED_REDIS   where Flask-Caching keeps its answers and versions (redis://…)
             CACHED_PAGE    the page, HTML
"""
import os

from flask import Flask, jsonify
from flask_caching import Cache

app = Flask(__name__)
cache = Cache(
    app,
    config={
        "CACHE_TYPE": "RedisCache",
        "CACHE_REDIS_URL": os.environ["CACHED_REDIS"],
        "CACHE_KEY_PREFIX": "dash:",
        "CACHE_DEFAULT_TIMEOUT": 60,
    },
)
VERSION = "ver:kpi:public"
orders = [0]


def version():
    return int(cache.get(VERSION) or 1)


@app.get("/page")
def page():
    return os.environ["CACHED_PAGE"]


@app.get("/kpi")
def kpi():
    key = f"answer:{version()}"
    if (answer := cache.get(key)) is None:
        answer = {"orders": orders[0]}
        cache.set(key, answer)
    return jsonify(answer)


@app.post("/orders")
def order():
    orders[0] += 1
    cache.set(VERSION, str(version() + 1), timeout=0)
    return jsonify(orders=orders[0])
