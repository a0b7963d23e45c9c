"""The application's own hand on a version key: Flask-Caching, unmodified.

usage: bump.py REDIS_URL PREFIX get NAMESPACE TENANT         prints int(cache.get(key)), or "None"
       bump.py REDIS_URL PREFIX bump NAMESPACE TENANT        the bump of README.md: at least the time, pickled
       bump.py REDIS_URL PREFIX count NAMESPACE TENANT       what other applications do: str(version + 1), pickled
       bump.py REDIS_URL PREFIX set NAMESPACE TENANT VALUE   sets an int
"""
import sys
import time

from flask import Flask
from flask_caching import Cache

url, prefix, command, namespace, tenant, *rest = sys.argv[1:]
app = Flask(__name__)
cache = Cache(
    app,
    config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url, "CACHE_KEY_PREFIX": prefix},
)
key = f"ver:{namespace}:{tenant}"
with app.app_context():
    if command == "set":
        assert cache.set(key, int(rest[0]), timeout=0)
    elif command == "bump":
        assert cache.set(key, str(max(int(cache.get(key) or 1) + 1, int(time.time() * 1000))), timeout=0)
    elif command == "count":
        assert cache.set(key, str(int(cache.get(key) or 1) + 1), timeout=0)
    elif command != "get":
        sys.exit(f"unknown command {command}")
    value = cache.get(key)
    print(value if value is None else int(value))
