import time, threading, httpx, pytest, random
from tests.a2a_client import Client
def test_x(relays, background, at_once, polite):
    here, there = relays.clients()
    stop = relays.here.runtime.stopping
    for i in range(150):
        with httpx.Client(base_url=relays.here.url, timeout=8) as http:
            c = Client(http, path="/a2a/relay")
            idle = c.subscribe(c.send("ask")["id"]); next(idle)
            if i % 3 == 0:
                busy = c.stream("stream"); [next(busy) for _ in range(3)]
            rest = at_once(list, idle)
            time.sleep(random.uniform(0, 0.02))
            t=time.time()
            background.loop.call_soon_threadsafe(stop.set)
            try:
                assert rest.result(8) == []
            except BaseException as e:
                import asyncio
                async def dump():
                    for task in asyncio.all_tasks():
                        print("TASK", task.get_coro(), task.cancelling()); task.print_stack()
                        import sys
                    sys.stdout.flush()
                background.run(dump())
                raise
            background.loop.call_soon_threadsafe(stop.clear)
            if i % 3 == 0:
                polite.go_on(3); list(busy)
