"""Uses a saver, forks, and uses it on both sides at once; run as a program with a connection string."""

import asyncio
import os
import sys
import traceback
import warnings

from langgraph_gcs_saver import GCSSaver
from tests.system.build import DEFAULT, cfg, checkpoint, noise, put, values


def state(n):
    return {"n": n, "large": noise(20_000, n), **{f"c{k}": noise(9_000, k) for k in range(3)}}


def use(saver, thread, begin):
    for n in range(begin, begin + 3):
        put(saver, n, state(n), parent=n - 1, thread=thread)
        assert values(saver.get_tuple(cfg(n, thread=thread))) == state(n)
        # Others may have put newer ones.
        newest = values(saver.get_tuple(cfg(thread=thread)))
        assert newest["n"] >= n
        assert newest == state(newest["n"])
    saver.put_writes(cfg(begin, thread=thread), [("a", 1)], "task")


async def ause(saver, thread, begin):
    async def one(n):
        first = checkpoint(n, state(n))
        await saver.aput(cfg(thread=thread), first, DEFAULT, first["channel_versions"])
        assert values(await saver.aget_tuple(cfg(n, thread=thread))) == state(n)

    await asyncio.gather(*map(one, range(begin, begin + 3)))
    assert [found async for found in saver.alist(cfg(thread=thread))]


def child(saver, who):
    try:
        use(saver, "shared parent", 100 + 10 * who)
        use(saver, f"child {who}", 1)
        asyncio.run(ause(saver, f"child {who}", 50))
        asyncio.run(ause(saver, f"child {who}", 60))
        saver.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(uri):
    warnings.simplefilter("ignore")  # from Python 3.12 on, of forking with threads
    saver = GCSSaver.from_conn_string(uri)
    use(saver, "shared parent", 1)
    asyncio.run(ause(saver, "parent", 10))
    children = []
    for who in range(3):
        pid = os.fork()
        if pid == 0:
            child(saver, who)
        children.append(pid)
    use(saver, "parent", 20)
    asyncio.run(ause(saver, "parent", 30))
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    use(saver, "shared parent", 4)
    assert codes == [0, 0, 0], codes
    assert len(list(saver.list(cfg(thread="shared parent")))) == 6 + 9
    for who in range(3):
        assert len(list(saver.list(cfg(thread=f"child {who}")))) == 9
    saver.close()


if __name__ == "__main__":
    main(sys.argv[1])
