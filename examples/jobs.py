"""Jobs that enqueue others, wait, compute in a process and run by the clock."""

from __future__ import annotations

import asyncio

from penstock import Penstock, Postpone

app = Penstock()
uploaded = {1, 2, 3}


@app.job(process=True, timeout="1m")
def thumbnail(image: int) -> int:
    """Compute for a while, in a process of the pool."""
    return image + 3


@app.job(retries=3, timeout="1m")
async def thumbnails(images: list[int]) -> list[int] | Postpone:
    """Enqueue a job for each image and wait for all of them."""
    if not uploaded.issuperset(images):
        return Postpone(until=10.0, reason="not every image is there yet")
    handles = await thumbnail.enqueue_many([(image,) for image in images])
    return [await handle.result() for handle in handles]


@app.cron("0 * * * *")
async def hourly() -> None:
    """Run at every full hour, once, however many workers there are."""
    print("one more hour")


async def main() -> None:
    """Enqueue a job and wait for its result."""
    async with app:
        images = [1, 2, 3]
        # One at a time for these images: enqueueing it twice is harmless.
        handle = await thumbnails.enqueue(images, key="1-2-3")
        print(f"thumbnails of {len(images)} images: {await handle.result(timeout=60)}")


if __name__ == "__main__":
    asyncio.run(main())
