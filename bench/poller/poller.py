"""The delivery somebody would write by hand: a loop over an outbox table, with Lago's official client.

Each thread has a connection of its own and takes the oldest rows that no other thread holds, posts them as one
batch, deletes them, and commits. A crash between the post and the commit repeats the batch, and Lago then refuses it
as duplicates; a program for production would have to deal with that, and with every other refusal. This one ends at
the first error, so that what it does not do costs it nothing.

It reads lines. An address of Lago and a number drain the outbox into that Lago with so many threads, and the answer is
`drained`; the end of the input ends it. The database is found by libpq's environment variables.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import orjson
import psycopg
from lago_python_client.client import Client
from lago_python_client.models import BatchEvent, Event

BATCH = 100  # the most that Lago takes at once

SELECT = f"SELECT id, payload FROM peer_outbox ORDER BY id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
DELETE = "DELETE FROM peer_outbox WHERE id = ANY(%s)"


def drain(connection, events):
    """Until a look at the outbox finds nothing."""
    while True:
        with connection.transaction():
            rows = connection.execute(SELECT).fetchall()
            if not rows:
                return
            events.batch_create(BatchEvent(events=[Event(**orjson.loads(payload)) for _, payload in rows]))
            connection.execute(DELETE, ([id for id, _ in rows],))


def main():
    database, api_key, most_threads = sys.argv[1:]
    # Statements are prepared from their first execution on; transactions begin where they are asked for.
    connections = [
        psycopg.connect(dbname=database, autocommit=True, prepare_threshold=0, application_name="poller")
        for _ in range(int(most_threads))
    ]
    with ThreadPoolExecutor(len(connections)) as threads:
        print("ready", flush=True)
        for line in sys.stdin:
            url, count = line.split()
            events = Client(api_key=api_key, api_url=url).events
            drains = [threads.submit(drain, connection, events) for connection in connections[: int(count)]]
            for each in drains:
                each.result()
            print("drained", flush=True)


if __name__ == "__main__":
    main()
