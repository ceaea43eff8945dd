"""The twelve services: who calls whom, and what each does itself.

front ─┬─ catalog ── cache, database          checkout ─┬─ cart ── cache
       ├─ recommend ── catalog                          ├─ inventory ── database
       ├─ cart ── cache                                 ├─ shipping ── cache
       └─ checkout ─────────────────────────────────▶   ├─ payment ── fraud
                                                        └─ orders ── database, notify
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import Any

from aiohttp import web

from testbed.shop.server import CallFailed, Handler, Service

CACHE_S = 5.0  # how long the cache keeps what it is given
DATABASE_USERS = ("catalog", "inventory", "orders")


async def home(me: Service, request: web.Request) -> Any:
    user = request.query.get("user", "0")
    shelf, cart = await asyncio.gather(
        me.call("catalog", f"/shelf/{int(user) % 40}"), me.call("cart", f"/cart/{user}")
    )
    try:
        liked = await me.call("recommend", f"/for/{user}")
    except CallFailed:
        liked = []  # the page can do without
    return {"shelf": len(shelf), "liked": len(liked), "cart": len(cart)}


async def product(me: Service, request: web.Request) -> Any:
    return await me.call("catalog", f"/product/{request.match_info['id']}")


async def put_in_cart(me: Service, request: web.Request) -> Any:
    return await me.call("cart", f"/cart/{request.match_info['user']}", {"product": request.query["product"]})


async def buy(me: Service, request: web.Request) -> Any:
    return await me.call("checkout", "/checkout", {"user": request.match_info["user"]})


async def _cached(me: Service, key: str, sql: str, *values: Any) -> Any:
    try:
        kept = await me.call("cache", f"/item/{key}")
    except CallFailed:
        kept = None  # slower without, not broken
    if kept is not None:
        return kept
    rows = await me.query(sql, *values)
    with contextlib.suppress(CallFailed):
        await me.call("cache", f"/item/{key}", rows)
    return rows


async def shelf(me: Service, request: web.Request) -> Any:
    number = int(request.match_info["number"])
    return await _cached(me, f"shelf-{number}", "SELECT * FROM products WHERE shelf = ?", number)


async def catalog_product(me: Service, request: web.Request) -> Any:
    number = int(request.match_info["id"])
    return await _cached(me, f"product-{number}", "SELECT * FROM products WHERE id = ?", number)


async def recommend(me: Service, request: web.Request) -> Any:
    user = int(request.match_info["user"])
    found = await me.call("catalog", f"/shelf/{(user * 7) % 40}")
    return sorted(found, key=lambda row: (row[0] * (user + 1)) % 101)[:5]


async def cart(me: Service, request: web.Request) -> Any:
    key = f"/item/cart-{request.match_info['user']}"
    held = await me.call("cache", key) or []
    if request.method == "POST":
        held = [*held, (await request.json())["product"]][-5:]
        await me.call("cache", key, held)
    return held


async def checkout(me: Service, request: web.Request) -> Any:
    user = (await request.json())["user"]
    held = await me.call("cart", f"/cart/{user}") or ["1"]
    article = int(held[-1])
    reserved, shipping = await asyncio.gather(
        me.call("inventory", f"/reserve/{article}"), me.call("shipping", f"/quote/{article % 9}")
    )
    paid = await me.call("payment", "/pay", {"user": user, "amount": shipping["price"] + 100})
    order = await me.call("orders", "/orders", {"product": article, "price": paid["amount"]})
    return {"order": order, "left_over": reserved}


async def reserve(me: Service, request: web.Request) -> Any:
    article = int(request.match_info["id"])
    await me.query("UPDATE stock SET left_over = left_over - 1 WHERE product = ?", article)
    return (await me.query("SELECT left_over FROM stock WHERE product = ?", article))[0][0]


async def quote(me: Service, request: web.Request) -> Any:
    zone = request.match_info["zone"]
    kept = await me.call("cache", f"/item/zone-{zone}")
    if kept is None:
        kept = 100 + 35 * int(zone)
        await me.call("cache", f"/item/zone-{zone}", kept)
    return {"price": kept}


async def pay(me: Service, request: web.Request) -> Any:
    wish = await request.json()
    await me.call("fraud", "/judge", wish)
    hashlib.pbkdf2_hmac("sha256", str(wish["user"]).encode(), b"shop", 500)
    return {"amount": wish["amount"]}


async def judge(me: Service, request: web.Request) -> Any:
    wish = await request.json()
    told = hashlib.pbkdf2_hmac("sha256", repr(wish).encode(), b"fraud", 2_000)
    return {"risk": told[0] / 255}


async def orders(me: Service, request: web.Request) -> Any:
    wish = await request.json()
    await me.query(
        "INSERT INTO orders (placed, product, price) VALUES (?, ?, ?)",
        time.time(),
        wish["product"],
        wish["price"],
    )
    found = await me.query("SELECT max(id) FROM orders")
    await me.call("notify", "/mail", {"order": found[0][0]})
    return found[0][0]


async def mail(me: Service, request: web.Request) -> Any:
    order = (await request.json())["order"]
    return {"mail": "\n".join(f"Dear customer, line {i} of order {order}." for i in range(40))[-40:]}


async def item(me: Service, request: web.Request) -> Any:
    key, now = request.match_info["key"], time.monotonic()
    if request.method == "POST":
        if len(me.cache) > 4_000:
            me.cache.clear()
        me.cache[key] = (now + CACHE_S, await request.json())
        return True
    until, value = me.cache.get(key, (0.0, None))
    return value if until > now else None


SERVICES: dict[str, dict[str, Handler]] = {
    "front": {"/": home, "/product/{id}": product, "/put/{user}": put_in_cart, "/buy/{user}": buy},
    "catalog": {"/shelf/{number}": shelf, "/product/{id}": catalog_product},
    "recommend": {"/for/{user}": recommend},
    "cart": {"/cart/{user}": cart},
    "checkout": {"/checkout": checkout},
    "inventory": {"/reserve/{id}": reserve},
    "shipping": {"/quote/{zone}": quote},
    "payment": {"/pay": pay},
    "fraud": {"/judge": judge},
    "orders": {"/orders": orders},
    "notify": {"/mail": mail},
    "cache": {"/item/{key}": item},
}
