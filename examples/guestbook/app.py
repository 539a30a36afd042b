"""A guestbook: entries are kept in Redis, the page is one HTML form."""

import os
import time

import redis
from flask import Flask, redirect, render_template, request

ENTRIES = "guestbook:entries"
KEPT = 100

app = Flask(__name__)
store = redis.Redis.from_url(
    os.environ.get("REDIS_URL", "redis://guestbook-redis:6379/0"),
    decode_responses=True,
    socket_connect_timeout=2,
    socket_timeout=2,
)


@app.get("/")
def page():
    rows = [entry.split("\t", 2) for entry in store.lrange(ENTRIES, 0, KEPT - 1)]
    return render_template("page.html", rows=rows, host=os.environ.get("HOSTNAME", ""))


@app.post("/")
def sign():
    name = request.form.get("name", "").replace("\t", " ").strip()[:80] or "somebody"
    message = request.form.get("message", "").replace("\t", " ").strip()[:500]
    if message:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        store.lpush(ENTRIES, f"{when}\t{name}\t{message}")
        store.ltrim(ENTRIES, 0, KEPT - 1)
    return redirect("/", code=303)


@app.get("/healthz")
def healthz():
    store.ping()
    return "ok\n"
