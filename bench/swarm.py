"""Many site agents in one process: what a simulated network client is. `python -m bench.swarm FOLDER...`"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path


async def main(folders: list[Path]) -> None:
    from locum.site.serve import open_agent

    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(open_agent(folder)) for folder in folders]
        await asyncio.gather(*(agent.run() for agent in agents))


if __name__ == "__main__":
    asyncio.run(main([Path(p) for p in sys.argv[1:]]))
